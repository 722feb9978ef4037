"""Cells that take turns, a step each: the same bits as alone, one teacher's answer for all, each its own fate."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.benchmark.data import source
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.worker import Interrupted, Worker
from kdbench.benchmark.training import together
from kdbench.benchmark.training.engine import Engine
from kdbench.methods.chain import Trace
from kdbench.methods.method import METHODS, Batch, Method

Make = Callable[..., Cell]
AT_ONE_TABLE = ("kd", "at", "sp", "multilevel", "weighted_logits", "jacobian", "ab", "blockwise", "simkd")


@pytest.fixture
def teacher(make_cell: Make, store: Store, tmp_path: Any) -> Cell:
    """Trained."""
    cell = make_cell(student="resnet8", seed=0)
    assert worker(store).work(cell, needs_weights=True) == "finished"
    return cell


def worker(store: Store) -> Worker:
    return Worker(store, Engine(torch.device("cpu")), store.folder.parent)


def outcomes(store: Store, cells: list[Cell]) -> list[str]:
    became = {cell.id: outcome for cell, outcome in worker(store).work_on(cells)}
    return [became[cell.id] for cell in cells]


def beside(store: Store, name: str) -> Store:
    """Another folder with the same teachers."""
    return Store(shutil.copytree(store.folder, store.folder.parent / name))


def test_cells_that_take_turns_end_with_the_bits_that_they_have_alone(
    make_cell: Make, teacher: Cell, store: Store
) -> None:
    cells = [
        make_cell(method, teacher, seed=1, params={"initial_epochs": 1} if method == "ab" else {})
        for method in AT_ONE_TABLE
    ]
    alone, turns = beside(store, "alone"), beside(store, "turns")
    for cell in cells:
        assert worker(alone).work(cell) == "finished"
    assert set(outcomes(turns, cells)) == {"finished"}
    for cell in cells:
        one, other = alone.record(cell.id), turns.record(cell.id)
        assert one and other
        assert same_bits(one.result, other.result), cell.method
        assert (one.cost.together, other.cost.together) == (1, len(cells))


def test_the_teacher_is_asked_once_a_step(
    make_cell: Make, teacher: Cell, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    class Counting(together.LiveTeacher):
        def __call__(self, batch: Any) -> Any:
            nonlocal asked
            asked += 1
            return super().__call__(batch)

    monkeypatch.setattr(together, "LiveTeacher", Counting)
    cells = [make_cell(method, teacher, seed=1) for method in ("kd", "at", "sp")]
    assert outcomes(store, cells) == ["finished"] * 3
    steps = cells[0].training.steps(source("digits").train) * cells[0].training.epochs
    assert steps <= asked <= steps + len(cells)  # in the first step they are still coming to the table


def test_who_writes_into_the_teachers_answer_changes_nothing_for_those_behind(
    make_cell: Make, teacher: Cell, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, losses = 0, METHODS["at"].losses

    def writes(self: Method, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        nonlocal written
        for view in teacher.views:
            for feature in view.features.values():
                written += int(feature.zero_().numel() > 0)
        return losses(self, student, teacher, batch)

    monkeypatch.setattr(METHODS["at"], "losses", writes)
    cells = [make_cell(method, teacher, seed=1) for method in ("at", "sp")]
    alone, turns = beside(store, "alone"), beside(store, "turns")
    assert worker(alone).work(cells[1]) == "finished"
    assert outcomes(turns, cells) == ["finished"] * 2
    one, other = alone.record(cells[1].id), turns.record(cells[1].id)
    assert written and one and other and same_bits(one.result, other.result)


@pytest.mark.parametrize("error", [ValueError("a mistake"), MemoryError("too much")])
def test_what_befalls_one_befalls_no_other(
    make_cell: Make, teacher: Cell, store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def raises(self: Method, *_: Any) -> dict[str, Tensor]:
        raise error

    cells = [make_cell(method, teacher, seed=1) for method in ("kd", "at")]
    with monkeypatch.context() as patched:
        patched.setattr(METHODS["at"], "losses", raises)
        became = outcomes(store, cells)
    # What there was no memory for beside others is no failure yet.
    assert became == ["finished", "alone" if isinstance(error, MemoryError) else "failed"]
    assert bool(store.failure(cells[1].id)) == isinstance(error, ValueError)


def test_all_who_are_asked_to_stop_write_a_checkpoint_first(make_cell: Make, teacher: Cell, store: Store) -> None:
    cells = [make_cell(method, teacher, seed=1) for method in ("kd", "at")]
    stopped = worker(store)
    stopped.stop.set()
    with pytest.raises(Interrupted):
        list(stopped.work_on(cells))
    for cell in cells:
        assert (store.work(cell.id) / "checkpoint.pt").exists()
        assert not list(store.work(cell.id).glob("lease.*"))
    assert outcomes(store, cells) == ["finished"] * 2


def test_who_reads_the_embedding_hears_it_beside_those_who_do_not(make_cell: Make, teacher: Cell, store: Store) -> None:
    cells = [make_cell(method, teacher, seed=1) for method in ("kd", "at", "rkd")]
    live = Worker(store, Engine(torch.device("cpu"), live_teacher=True), store.folder.parent)
    assert [outcome for _, outcome in live.work_on(cells)] == ["finished"] * 3
