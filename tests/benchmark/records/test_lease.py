"""A lease: held by one at most, by nobody dead, whatever happens in between."""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from kdbench.benchmark.records import lease as lease_module
from kdbench.benchmark.records.lease import PATIENCE, Holder, Lease, alive, held
from tests.benchmark.records.leases import Start, leave, names, taken

# -- taking and giving back -------------------------------------------------------------------------------------------


def test_what_is_taken_cannot_be_taken_again_until_it_is_released(folder: Path) -> None:
    lease = taken(folder)
    assert held(folder) and lease.holds()
    assert Lease.take(folder) is None
    assert lease.holds()
    lease.release()
    assert not held(folder)
    assert not lease.holds()
    taken(folder)


def test_a_release_leaves_nothing_behind(folder: Path) -> None:
    taken(folder).release()
    assert names(folder.parent) == []


def test_a_release_leaves_what_others_have_put_there(folder: Path) -> None:
    lease = taken(folder)
    (folder / "checkpoint.pt").touch()
    lease.release()
    assert names(folder) == ["checkpoint.pt"]


def test_of_many_threads_one_takes_it(folder: Path) -> None:
    for _ in range(30):
        barrier, got = threading.Barrier(8), []

        def take(barrier: threading.Barrier = barrier, got: list[Lease | None] = got) -> None:
            barrier.wait()
            got.append(Lease.take(folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = filter(None, got)
        assert winner.holds()
        winner.release()


# -- who is alive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lease_of_a_killed_process_is_taken_over_at_once_by_one_of_many(
    folder: Path, start: Start, reaped: bool
) -> None:
    holder = start("print(bool(Lease.take(Path(sys.argv[1])))); sys.stdout.flush(); time.sleep(600)", folder)
    assert holder.stdout and holder.stdout.readline() == "True\n"
    go = folder.parent / "go"
    contend = "while not Path(sys.argv[2]).exists(): pass\nprint(bool(Lease.take(Path(sys.argv[1])))); input()"
    contenders = [start(f"print('ready', flush=True)\n{contend}", folder, go) for _ in range(3)]
    for contender in contenders:
        assert contender.stdout and contender.stdout.readline() == "ready\n"
    assert held(folder)

    holder.kill()
    if reaped:
        holder.wait()
    else:  # in a container nobody may come to do it
        while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    assert not held(folder)
    go.touch()
    for contender in contenders:
        assert contender.stdin and contender.stdout
        contender.stdin.flush()
    answers = []
    for contender in contenders:
        out, _ = contender.communicate("\n")
        answers.append(out.strip())
    assert sorted(answers) == ["False", "False", "True"]


def test_the_lease_of_a_stopped_process_is_respected_however_old_its_heartbeat(folder: Path, start: Start) -> None:
    holder = start("print(bool(Lease.take(Path(sys.argv[1])))); sys.stdout.flush(); time.sleep(600)", folder)
    assert holder.stdout and holder.stdout.readline() == "True\n"
    holder.send_signal(signal.SIGSTOP)
    os.utime(folder / "lease.1", (time.time() - 10 * PATIENCE,) * 2)
    assert Lease.take(folder) is None


def test_the_lease_of_another_machine_is_respected_while_its_heart_beats(folder: Path) -> None:
    file = leave(folder, host="elsewhere", age=PATIENCE - 30)
    assert alive(file)
    assert Lease.take(folder) is None
    os.utime(file, (time.time() - PATIENCE - 1,) * 2)
    assert taken(folder).holds()
    assert names(folder) == ["lease.2"]


def test_who_may_only_read_sees_whose_heart_beats_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> NoReturn:
        raise PermissionError("a colleague's results")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    leave(folder, host="elsewhere", age=PATIENCE - 30)
    assert held(folder)
    leave(folder, host="elsewhere", age=PATIENCE + 30)
    assert not held(folder)


def test_a_beat_brings_the_lease_up_to_date(folder: Path) -> None:
    lease = taken(folder)
    os.utime(lease.file, (time.time() - PATIENCE,) * 2)
    lease.beat()
    assert time.time() - lease.file.stat().st_mtime < PATIENCE / 2


def beaten(file: Path) -> bool:
    """Whether it is brought up to date, by itself, before long."""
    deadline = time.monotonic() + 60
    os.utime(file, (time.time() - PATIENCE,) * 2)
    while not (fresh := time.time() - file.stat().st_mtime < PATIENCE / 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    return fresh


def test_a_lease_that_one_works_with_beats_by_itself_and_is_released_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    with taken(folder) as lease:
        assert beaten(lease.file) and beaten(lease.file)
        assert not lease.lost
    assert names(folder.parent) == []


def test_a_lease_that_is_lost_says_so_and_keeps_nobody_elses_alive(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    with taken(folder) as lease:
        lease.file.unlink()
        others = leave(folder, host="elsewhere", age=PATIENCE / 2)
        seen = others.stat().st_mtime
        deadline = time.monotonic() + 60
        while not lease.lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
        assert others.stat().st_mtime == seen
    assert names(folder) == [others.name]


def test_a_process_that_has_only_the_number_of_the_holder_is_not_believed_for_ever(folder: Path) -> None:
    """Its beginning differs. That may also be a clock that was set: a heart that beats is believed."""
    file = leave(folder, began=Holder.me().began - 1000)
    assert alive(file)
    os.utime(file, (time.time() - PATIENCE - 1,) * 2)
    assert not alive(file)
    taken(folder)


@pytest.mark.parametrize("pid", [2**22, 2**40])  # more than Linux gives, and more than it can be asked for
def test_a_process_that_is_gone_is_not_alive_however_young_its_heartbeat(folder: Path, pid: int) -> None:
    assert not alive(leave(folder, pid=pid))


def test_machines_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots, seen = [tmp_path / "one", tmp_path / "another", tmp_path / "none that can be read"], set()
    for boot in boots[:2]:
        boot.write_text(f"{boot.name}\n")
    for boot in boots:
        monkeypatch.setattr(lease_module, "BOOT", boot)
        seen.add(lease_module.here.__wrapped__())
    assert len(seen) == 3


def test_a_process_of_another_user_that_the_machine_hides_is_believed_while_its_heart_beats(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: int) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    file = leave(folder, pid=2**22)
    assert Lease.take(folder) is None
    os.utime(file, (time.time() - PATIENCE - 1,) * 2)
    taken(folder)


@pytest.mark.parametrize("content", [b"", b"rubbish", b'{"host": "x"}', b"\xff\xfe"])
def test_a_lease_that_nobody_can_read_holds_while_its_heart_beats(folder: Path, content: bytes) -> None:
    file = leave(folder)
    file.write_bytes(content)
    assert Lease.take(folder) is None
    os.utime(file, (time.time() - PATIENCE - 1,) * 2)
    taken(folder)


def test_other_files_in_the_folder_are_no_leases(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("lease.txt", "lease.", "lease.1.old", "lease.-1", "draft.4711"):
        (folder / name).touch()
    assert not held(folder)
    assert taken(folder).file.name == "lease.1"


# -- a holder that was only believed dead -----------------------------------------------------------------------------


def test_one_who_was_believed_dead_sees_that_it_has_lost_and_harms_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = taken(folder)
    with monkeypatch.context() as other:
        other.setattr(lease_module, "here", lambda: "another machine")
        assert Lease.take(folder) is None
        os.utime(lost.file, (time.time() - PATIENCE - 1,) * 2)
        winner = taken(folder)
    assert winner.holds() and not lost.holds()
    lost.beat()
    lost.release()
    assert winner.holds()
    assert held(folder)


def test_one_who_was_believed_dead_does_not_take_a_later_lease_of_the_same_name_for_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = taken(folder)
    monkeypatch.setattr(lease_module, "here", lambda: "another machine")
    os.utime(lost.file, (time.time() - PATIENCE - 1,) * 2)
    taken(folder).release()
    third = taken(folder)
    assert third.file == lost.file
    assert not lost.holds()
    lost.release()
    assert third.holds()
