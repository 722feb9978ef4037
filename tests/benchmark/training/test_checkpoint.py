"""Checkpoints through kills, damage and malice."""

import errno
import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.benchmark.training.checkpoint import FORMAT, Checkpoints, State


def state(number: int) -> State:
    return {"weights": {"w": torch.arange(1000) * number}, "history": [{"epoch": number, "score": None}], "name": "ä"}


def number(saved: State | None) -> int | None:
    """Which of the states above it is, after a look at all of it."""
    if saved is None:
        return None
    epoch: int = saved["history"][0]["epoch"]
    want = state(epoch)
    assert torch.equal(saved["weights"]["w"], want["weights"]["w"])
    assert {**saved, "weights": None} == {**want, "weights": None}
    return epoch


@pytest.fixture
def twice(tmp_path: Path) -> Checkpoints:
    """Two states saved, 1 before 2."""
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    return checkpoints


def names(checkpoints: Checkpoints) -> set[str]:
    return {file.name for file in checkpoints.last.parent.iterdir()}


def test_the_last_state_saved_comes_back(twice: Checkpoints) -> None:
    assert number(twice.load()) == 2
    assert number(Checkpoints(twice.last.parent).load()) == 2
    twice.save(state(3))
    assert number(twice.load()) == 3
    assert names(twice) == {"checkpoint.pt", "checkpoint.before.pt"}


def test_a_full_disk_leaves_what_was_saved_and_no_part(twice: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk, pytest.raises(OSError, match="No space left"):
        disk.setattr(os, "fsync", full)
        twice.save(state(3))
    assert names(twice) == {"checkpoint.pt", "checkpoint.before.pt"}
    assert number(twice.load()) == 2


def test_where_nothing_was_saved_nothing_comes_back(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        assert Checkpoints(tmp_path / "not" / "there").load() is None


def test_what_was_cleared_does_not_come_back(twice: Checkpoints) -> None:
    twice.clear()
    assert twice.load() is None
    twice.clear()  # once more does no harm


def test_one_that_does_not_fit_is_dropped_with_the_one_before(twice: Checkpoints) -> None:
    """A next try would end at it as well."""
    other = "its checkpoint of other code does not fit and is dropped"
    with pytest.raises(RuntimeError, match=other), twice.fitting():
        torch.nn.Linear(2, 2).load_state_dict(state(1)["weights"])
    assert twice.load() is None


def test_one_that_there_was_no_memory_for_stays(twice: Checkpoints) -> None:
    with pytest.raises(torch.OutOfMemoryError), twice.fitting():
        raise torch.OutOfMemoryError("too much")
    assert number(twice.load()) == 2


def test_a_checkpoint_is_due_after_its_time_and_no_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    checkpoints = Checkpoints(tmp_path, every=30)
    assert not checkpoints.due()
    clock = 129.9
    assert not checkpoints.due()
    clock = 130.0
    assert checkpoints.due()
    checkpoints.save(state(1))
    assert not checkpoints.due()
    assert Checkpoints(tmp_path, every=0).due()


# -- damage -----------------------------------------------------------------------------------------------------------

HEAD = len(FORMAT) + 32
Damage = Callable[[bytes], bytes]


def keep(share: float) -> Damage:
    return lambda content: content[: int(share * len(content))]


def flip(place: float) -> Damage:
    """One bit, at a byte or, below 1, at a share of the length."""

    def damage(content: bytes) -> bytes:
        at = int(place if place >= 1 else place * len(content))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return damage


DAMAGES: dict[str, Damage] = {
    "empty": keep(0),
    "cut in the head": lambda content: content[: HEAD - 5],
    "cut after the head": lambda content: content[:HEAD],
    "cut in the middle": keep(0.5),
    "one byte short": lambda content: content[:-1],
    "one byte long": lambda content: content + b"\0",
    "wrong format": lambda content: b"kdbench checkpoint 9\n" + content[len(FORMAT) :],
    "no checkpoint": lambda content: b"hello",
    "bare torch.save": lambda content: content[HEAD:],
    "all zeros": lambda content: bytes(len(content)),
    **{f"a bit flipped at {place}": flip(place) for place in (1, len(FORMAT), HEAD - 1, HEAD, 0.3, 0.6, 0.9, 0.999)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_set_aside_and_reported_and_the_one_before_is_used(
    twice: Checkpoints, damage: Damage
) -> None:
    content = twice.last.read_bytes()
    twice.last.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is .*: it is set aside as checkpoint\.damaged$"):
        assert number(twice.load()) == 1
    assert names(twice) == {"checkpoint.damaged", "checkpoint.before.pt"}
    assert (twice.last.parent / "checkpoint.damaged").read_bytes() == damage(content)
    with warnings.catch_warnings(action="error"):  # reported once
        assert number(twice.load()) == 1
    twice.save(state(3))
    assert number(twice.load()) == 3


def test_where_both_are_damaged_a_run_begins_anew(twice: Checkpoints) -> None:
    for file in (twice.last, twice.before):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning) as told:
        assert twice.load() is None
    assert len(told) == 2
    assert names(twice) == {"checkpoint.damaged", "checkpoint.before.damaged"}


# -- malice -----------------------------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def forge(file: Path, content: Any) -> None:
    """A file with the right name of the format and the right digest, whatever it holds."""
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        content = buffer.getvalue()
    file.write_bytes(FORMAT + hashlib.blake2b(content, digest_size=32).digest() + content)


def test_a_forged_checkpoint_runs_no_code(twice: Checkpoints, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    forge(twice.last, {"student": Touch(trap)})
    torch.load(io.BytesIO(twice.last.read_bytes()[HEAD:]), weights_only=False)
    assert trap.exists()  # it would have been sprung
    trap.rmdir()
    with pytest.warns(UserWarning, match="contains something other than tensors and plain values"):
        assert number(twice.load()) == 1
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"], ids=str)
def test_a_whole_file_that_torch_cannot_read_is_set_aside_too(twice: Checkpoints, content: bytes) -> None:
    forge(twice.last, content)
    with pytest.warns(UserWarning, match="it is set aside"):
        assert number(twice.load()) == 1


# -- kills ------------------------------------------------------------------------------------------------------------


def test_parts_left_by_a_killed_writer_are_swept_up_and_never_read(twice: Checkpoints) -> None:
    folder = twice.last.parent
    (folder / ".checkpoint.pt.4711.part").write_bytes(twice.last.read_bytes()[:100])
    (folder / ".checkpoint.pt.4712.part").write_bytes(twice.before.read_bytes())
    (folder / "notes.part").write_text("not ours")
    assert number(twice.load()) == 2
    assert names(twice) == {"checkpoint.pt", "checkpoint.before.pt", "notes.part"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("call", "time", "left", "comes_back"),
    [
        ("kdbench.benchmark.training.checkpoint.torch.save", 1, {"checkpoint.pt", "checkpoint.before.pt"}, 2),
        ("os.fsync", 1, {"checkpoint.pt", "checkpoint.before.pt"}, 2),
        ("pathlib.Path.replace", 1, {"checkpoint.pt", "checkpoint.before.pt"}, 2),
        ("pathlib.Path.replace", 2, {"checkpoint.before.pt"}, 2),
    ],
    ids=["before writing", "while writing", "before the renames", "between the renames"],
)
def test_a_save_that_is_cut_off_leaves_the_state_before_it(
    twice: Checkpoints, monkeypatch: pytest.MonkeyPatch, call: str, time: int, left: set[str], comes_back: int
) -> None:
    module, _, name = call.rpartition(".")
    owner = {"kdbench.benchmark.training.checkpoint.torch": torch, "os": os, "pathlib.Path": Path}[module]
    real, calls = getattr(owner, name), 0

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == time:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, cut_off)
        with pytest.raises(Killed):
            twice.save(state(3))
    assert {file for file in names(twice) if not file.endswith(".part")} == left
    with warnings.catch_warnings(action="error"):
        assert number(twice.load()) == comes_back
    assert names(twice) == left  # the part is gone
    twice.save(state(4))
    assert number(twice.load()) == 4


def test_a_new_file_is_whole_on_the_disk_before_it_takes_the_place_of_the_old(
    twice: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        events.append("fsync")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        events.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    twice.save(state(3))
    assert events == ["fsync", "checkpoint.before.pt", "checkpoint.pt"]
