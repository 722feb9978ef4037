"""A lease is held by one at most, however those who want it come in between one another."""

import os
from pathlib import Path

import pytest

from kdbench.benchmark.records.lease import PATIENCE, Lease
from tests.benchmark.records.leases import Start, leave, names, taken

# -- races, one interleaving at a time --------------------------------------------------------------------------------


def test_one_who_looked_long_ago_does_not_take_what_another_has_taken_since(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw a dead lease; before it links, that is taken over, released, and taken anew under the first number."""
    leave(folder, host="elsewhere", age=2 * PATIENCE)
    real, since = os.link, []

    def slow(draft: Path, file: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        taken(folder).release()
        since.append(taken(folder))
        real(draft, file)
        assert since[0].holds()  # it need not worry about one who is about to give way

    monkeypatch.setattr(os, "link", slow)
    assert Lease.take(folder) is None
    assert since[0].file.name == "lease.1"
    assert since[0].holds()
    assert names(folder) == ["lease.1"]


def test_one_who_saw_nobody_does_not_take_what_another_has_taken_over_since(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw an empty folder, a higher number came, and the number that it links is free."""
    real, since = os.link, []

    def slow(draft: Path, file: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        leave(folder, host="elsewhere", age=2 * PATIENCE)
        since.append(taken(folder))
        real(draft, file)

    monkeypatch.setattr(os, "link", slow)
    assert Lease.take(folder) is None
    assert since[0].holds()
    assert names(folder) == ["lease.2"]


def test_a_folder_that_is_cleared_away_while_one_takes_it_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def slow(self: Path, content: bytes) -> int:
        monkeypatch.setattr(Path, "write_bytes", real)
        self.parent.rmdir()
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", slow)
    assert Lease.take(folder) is None
    taken(folder)


def test_a_link_whose_answer_was_lost_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request that it has had no answer to; the second time, the name exists."""
    real = os.link

    def twice(draft: Path, file: Path) -> None:
        real(draft, file)
        real(draft, file)

    monkeypatch.setattr(os, "link", twice)
    assert taken(folder).holds()


# -- stress -----------------------------------------------------------------------------------------------------------

GRAB = """
root, seed = Path(sys.argv[1]), int(sys.argv[2])
import random
draw = random.Random(seed)
left = [f"{i:04}" for i in range(2000)]
while left:
    # neighbours of each other most of the time, so that the processes meet
    for cell in sorted(left)[: draw.randint(1, 40)]:
        lease = Lease.take(root / "work" / cell)
        if lease is None:
            continue
        inside = root / "inside" / cell
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is inside
        if not (root / "done" / cell).exists():
            os.close(os.open(root / "done" / cell, os.O_CREAT | os.O_EXCL))
            with (root / "count").open("ab", 0) as count:
                count.write(cell.encode() + b"\\n")
        held = lease.holds()
        inside.unlink()
        lease.release()
        assert held
        left.remove(cell)
"""


def test_processes_that_take_thousands_of_leases_never_hold_one_together_and_lose_none(
    tmp_path: Path, start: Start
) -> None:
    for name in ("inside", "done"):
        (tmp_path / name).mkdir()
    processes = [start(GRAB, tmp_path, seed) for seed in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    count = (tmp_path / "count").read_text().splitlines()
    assert len(count) == len(set(count)) == 2000
    assert names(tmp_path / "work") == names(tmp_path / "inside") == []
