"""Students that learned from other weights than their teacher has by now: what a plan says of them, and what stays."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdbench.benchmark.catalogue import described
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import State, plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import local
from kdbench.benchmark.runs.launcher import Launcher
from kdbench.benchmark.runs.local import run_grid
from kdbench.benchmark.runs.summary import of_status, plan_text, status_text
from kdbench.benchmark.whole import write
from tests.benchmark.plans.states import failed, finish, states

MakeRecord = Callable[..., Record]


@pytest.fixture
def outdated(store: Store, make_record: MakeRecord, kd: Cell) -> Store:
    assert kd.teacher
    finish(store, make_record(kd.teacher, weights="n" * 32))
    finish(store, make_record(kd))
    return store


def test_a_student_is_outdated_whose_teacher_has_other_weights_by_now_and_missing_for_who_asks_for_such(
    grid: Grid, outdated: Store
) -> None:
    made = plan(grid, outdated)
    assert states(made) == {"resnet14x0.5 ce": "finished", "resnet8x0.25 ce": "missing", "resnet8x0.25 kd": "outdated"}
    (entry,) = made.those(State.OUTDATED)
    for lines in (plan_text(made).splitlines(), status_text(made, outdated.folder).splitlines()):
        assert lines[0].endswith(": 1 finished, 1 outdated, 1 missing")
        assert lines[1] == f"  outdated  {entry.cell.id}: its teacher has been retrained since"
        assert lines[2] == "Outdated cells are run again with --retry outdated."
    assert [row["id"] for row in of_status(made, outdated.folder)["outdated"]] == [entry.cell.id]

    again = plan(grid, outdated, "outdated")
    assert states(again)["resnet8x0.25 kd"] == "missing"
    assert "its teacher has been retrained since" in next(
        line for line in plan_text(again).splitlines() if entry.cell.id in line
    )
    assert states(plan(grid, outdated, "failed"))["resnet8x0.25 kd"] == "outdated"


def test_the_teacher_of_an_outdated_student_is_needed_where_that_is_run_again_alone(
    grid: Grid, outdated: Store, kd: Cell
) -> None:
    assert kd.teacher
    outdated.weights(kd.teacher).unlink()
    assert states(plan(grid, outdated))["resnet14x0.5 ce"] == "finished"
    made = plan(grid, outdated, "outdated")
    assert (made.teachers[0].state, made.teachers[0].reason) == (State.MISSING, "its weights are missing")


def test_an_outdated_student_can_be_run_again_though_it_failed_at_that_or_its_teacher_did(
    grid: Grid, outdated: Store, kd: Cell
) -> None:
    assert kd.teacher
    outdated.weights(kd.teacher).unlink()
    for cell in (kd, kd.teacher):
        outdated.fail(failed(cell))
    (entry,) = plan(grid, outdated).those(State.OUTDATED)
    assert entry.reason.endswith("; retraining this cell failed: Diverged: the loss is no longer a number")
    assert set(states(plan(grid, outdated, "outdated")).values()) == {"missing"}


def test_an_outdated_student_that_is_being_run_again_is_running(grid: Grid, outdated: Store, kd: Cell) -> None:
    lease = Lease.take(outdated.work(kd.id))
    assert lease
    assert states(plan(grid, outdated))["resnet8x0.25 kd"] == "running"
    lease.release()
    assert states(plan(grid, outdated))["resnet8x0.25 kd"] == "outdated"


def test_the_checkpoint_of_an_outdated_student_stays_until_it_has_been_run_again(
    outdated: Store, make_record: MakeRecord, kd: Cell
) -> None:
    checkpoint = outdated.work(kd.id) / "checkpoint.pt"
    for current, there in ((False, True), (True, False)):
        if current:
            outdated.finish(make_record(kd, teacher_weights="n" * 32))
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
        outdated.tidy()
        assert checkpoint.exists() is there


def test_a_student_is_not_outdated_whose_teacher_is_not_known_or_that_does_not_say_what_it_learned_from(
    grid: Grid, store: Store, make_record: MakeRecord, kd: Cell
) -> None:
    finish(store, make_record(kd))
    assert states(plan(grid, store))["resnet8x0.25 kd"] == "finished"
    assert kd.teacher
    finish(store, make_record(kd.teacher, weights="n" * 32))
    silent = make_record(kd)
    silent.result.teacher_weights = None
    finish(store, silent)
    assert states(plan(grid, store))["resnet8x0.25 kd"] == "finished"


def test_an_outdated_student_that_failed_when_it_was_trained_again_is_a_failure_of_its_grid(
    outdated: Store, kd: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its exit code, and in what is shown of the cell."""
    alone = Grid("tiny", "", (kd,))
    assert run_grid(alone, outdated.folder, Path()) == 0
    outdated.fail(failed(kd))
    assert run_grid(alone, outdated.folder, Path()) == 1
    assert "retraining this cell failed: Diverged" in capsys.readouterr().out
    shown = described(kd.id, outdated.folder)
    assert (shown["result"]["top1"], shown["failed since"]["error"]) == (50.0, failed(kd).error)


def test_a_run_says_what_else_it_leaves_alone(
    outdated: Store, ce: Cell, kd: Cell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed before, what ran on other data, and, for who asks for bits that are the same everywhere, what ran
    without."""
    monkeypatch.setattr(Launcher, "launch", lambda *_: Counter())
    monkeypatch.setattr(local, "portable", lambda: True)
    other = replace(ce, seed=1)
    assert kd.teacher
    teacher = outdated.record(kd.teacher.id)
    assert teacher
    write(outdated.records_folder / f"{teacher.id}.json", pretty(replace(teacher, data="old older")))
    outdated.fail(failed(ce))
    assert run_grid(Grid("tiny", "", (ce, kd, other)), outdated.folder, Path()) == 1
    said, warned = capsys.readouterr()
    assert "tiny: 1 of 4 cells to run" in said and f"  failed  {ce.id}: Diverged" in said
    assert "Failed cells are run again with --retry failed." in said
    assert warned.splitlines() == [
        "kdbench: 1 finished cell, 1 teacher among them, ran without --portable and will be kept",
        "kdbench: digits has changed: 1 finished cell of this grid used the earlier data and will be kept",
    ]
