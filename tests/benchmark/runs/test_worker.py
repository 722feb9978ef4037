"""What a worker tells others while a cell runs, and what comes of it where the disk is full."""

import errno
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from kdbench.benchmark.records import lease as lease_module
from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import worker
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.whole import write
from tests.conftest import CPU

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_the_time_that_is_left_follows_from_the_pace_of_the_phase_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    news = worker.News(tmp_path / "cell", None)

    def left(phase: str, epoch: int, epochs: int) -> float | None:
        news.live = Live(phase, epoch, epochs, step=10, steps=10)
        status = news.status()
        assert status
        return status.seconds_left

    assert news.status() is None
    assert left("adapter", 5, 10) is None  # it was resumed there
    now = 1000.0
    assert left("adapter", 9, 10) == pytest.approx(250)
    assert left("main", 1, 100) is None
    now = 1002.0
    assert left("main", 2, 100) == pytest.approx(2 * 98)


def test_a_teacher_whose_weights_do_not_fit_has_failed_and_goes_on_from_its_checkpoint(
    make_cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell = Store(tmp_path), make_cell()
    begun: list[bool] = []

    def small(file: Path, content: bytes) -> None:
        if file.suffix == ".safetensors":
            raise FULL
        write(file, content)

    def watched(self: Checkpoints) -> object:
        begun.append(not self.last.exists())
        return load(self)

    load = Checkpoints.load
    monkeypatch.setattr(Checkpoints, "load", watched)
    monkeypatch.setattr(Checkpoints, "due", lambda self: not self.last.exists())
    at_work = worker.Worker(store, CPU, Path())
    with monkeypatch.context() as disk:
        disk.setattr(store_module, "write", small)
        assert at_work.work(cell, needs_weights=True) == "failed"
    assert store.failures()[cell.id].error == "OSError: [Errno 28] No space left on device"
    store.tidy()
    store.forgive(cell.id)
    assert at_work.work(cell, needs_weights=True) == "finished"
    assert begun == [True, False]
    assert store.weights(cell).exists()


def test_a_teacher_whose_weights_are_gone_is_trained_anew_and_keeps_its_record_where_they_have_the_same_bits(
    make_cell: Callable[..., Cell], tmp_path: Path
) -> None:
    store, cell = Store(tmp_path), make_cell()
    at_work = worker.Worker(store, CPU, Path())
    at_work.work(cell)
    (file,) = store.records_folder.iterdir()
    record, weights = file.read_bytes(), store.weights(cell).read_bytes()
    store.weights(cell).unlink()
    assert at_work.work(cell, needs_weights=True) == "finished"
    assert file.read_bytes() == record
    assert store.weights(cell).read_bytes() == weights


def test_a_teacher_that_was_trained_anew_and_has_other_bits_says_so_and_has_another_record(
    make_cell: Callable[..., Cell], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    store, cell = Store(tmp_path), make_cell()
    other = make_record(cell)
    store.finish(other)
    with pytest.warns(UserWarning, match=f"{cell.id} was retrained and its weights changed"):
        assert worker.Worker(store, CPU, Path()).work(cell, needs_weights=True) == "finished"
    record = store.record(cell.id)
    assert record and record.result.weights != other.result.weights
    assert store.weights(cell).exists()


def test_a_student_is_trained_again_if_its_teacher_has_other_weights_by_now_and_not_otherwise(
    make_cell: Callable[..., Cell], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    store, student = Store(tmp_path), make_cell("kd", teacher="resnet14x0.5")
    assert student.teacher
    at_work = worker.Worker(store, CPU, Path())
    at_work.work(student.teacher, needs_weights=True)
    at_work.work(student)
    record = store.record(student.id)
    assert record

    def left_by(teacher_weights: str | None) -> str:
        """Whose record is there after a worker was given a cell that learned from these."""
        record.origin, record.result.teacher_weights = "an earlier run", teacher_weights
        store.add(record, msgspec.json.encode(record))
        assert at_work.work(student) == "finished"
        after = store.record(student.id)
        return after.origin if after else "nobody"

    assert left_by(record.result.teacher_weights) == "an earlier run"
    assert left_by("those of an earlier training") == ""
    assert not [warning for warning in recwarn if "trained anew" in str(warning.message)]  # that is said of teachers


def test_a_cell_that_has_no_room_for_its_lease_has_failed(
    make_cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> NoReturn:
        raise FULL

    monkeypatch.setattr(Lease, "take", full)
    store, cell = Store(tmp_path), make_cell()
    assert worker.Worker(store, CPU, Path()).work(cell) == "failed"
    assert store.failures()[cell.id].error == "OSError: [Errno 28] No space left on device"


# -- the lease, while a cell runs --------------------------------------------------------------------------------------


@pytest.fixture
def work(
    make_cell: Callable[..., Cell], make_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Path], None]], tuple[str, Store]]:
    """What becomes of a cell of two steps, in each of which something is done to its lease."""

    def run(in_step: Callable[[Path], None]) -> tuple[str, Store]:
        store, cell = Store(tmp_path), make_cell()

        def steps(*_: object) -> Generator[Live, None, tuple[Record, None]]:
            for step in (1, 2):
                in_step(store.work(cell.id) / "lease.1")
                yield Live("main", 1, 1, step, 2)
            return make_record(cell), None

        monkeypatch.setattr(worker, "running", steps)
        return worker.Worker(store, CPU, Path()).work(cell), store

    return run


def wait_for(that: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not that():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cell_that_runs_keeps_its_lease_alive(
    work: Callable[..., tuple[str, Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.01)

    def grow_old(lease: Path) -> None:
        os.utime(lease, (0, 0))
        wait_for(lambda: lease.stat().st_mtime > 0)

    outcome, store = work(grow_old)
    assert outcome == "finished" and len(store.records()) == 1


@pytest.mark.parametrize("seen", [True, False], ids=["in a step", "at the end"])
def test_a_worker_that_was_believed_dead_writes_nothing(
    work: Callable[..., tuple[str, Store]], monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    steps: list[int] = []
    leases: list[Lease | None] = []
    take = Lease.take
    monkeypatch.setattr(lease_module, "BEAT", 0.01 if seen else 3600.0)
    monkeypatch.setattr(Lease, "take", lambda folder: leases.append(take(folder)) or leases[-1])

    def lose(file: Path) -> None:
        steps.append(len(steps))
        file.unlink(missing_ok=True)
        if seen:
            wait_for(lambda: leases[-1] is not None and leases[-1].lost)

    outcome, store = work(lose)
    assert outcome == "elsewhere" and not store.records() and not store.failures()
    assert len(steps) == (1 if seen else 2)


def test_a_cell_that_failed_between_plan_and_lease_is_not_run(
    make_cell: Callable[..., Cell], work: Callable[..., tuple[str, Store]], tmp_path: Path
) -> None:
    def never(_: Path) -> NoReturn:
        raise AssertionError

    Store(tmp_path).fail(worker.failure(make_cell(), "it was like this", "", None))
    outcome, store = work(never)
    assert outcome == "failed" and [failure.error for failure in store.failures().values()] == ["it was like this"]
