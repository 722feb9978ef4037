"""Whole sequences on the digits: what each task sees, what is left of it, and the same bits after every kill."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.benchmark.data import load
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record, same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import sequence
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.runs.sequence import Past, Sequence
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live, drive
from kdbench.benchmark.training.recipe import Recipe

CPU = Engine(torch.device("cpu"))
SHORT = Recipe(epochs=2, batch=30, schedule="constant")
LWF = {"temperature": 2.0, "weight": 0.25, "ce_weight": 1.0}
Make = Callable[..., Cell]


class Stopped(Exception):
    pass


@pytest.fixture
def make(make_cell: Make) -> Make:
    """``make("kd", memory=20)``: a cell of five tasks, two epochs each."""

    def make(method: str = "ce", params: dict[str, Any] | None = None, seed: int = 0, **asked: Any) -> Cell:
        incremental = Incremental(**{"count": 5} | asked)
        setting = {"setting": "incremental", "incremental": incremental}
        return make_cell(method, params=params or {}, seed=seed, recipe=SHORT, **setting)

    return make


def once(cell: Cell, folder: Path, every: float = 30, watch: Callable[[Live], None] | None = None) -> Record:
    return run(cell, Store(folder), CPU, Path(), Checkpoints(folder, every), watch)[0]


def learned(cell: Cell, folder: Path) -> tuple[Sequence, Past]:
    made = Sequence(cell, load("digits", Path()), CPU)
    return made, drive(made.run(Checkpoints(folder)))


# -- what a record says -----------------------------------------------------------------------------------------------


def test_a_record_holds_the_matrix_and_its_headline_is_the_final_accuracy_on_all_classes(
    make: Make, tmp_path: Path
) -> None:
    lives: list[Live] = []
    result = once(make("kd", LWF), tmp_path, watch=lives.append).result
    told = result.incremental
    assert told
    assert [len(row) for row in told.matrix] == [1, 2, 3, 4, 5]
    assert sorted(label for task in told.classes for label in task) == list(range(10))
    assert result.top1 == told.final == told.seen[-1] == result.curves.top1[-1]
    assert told.seen == result.curves.top1[1::2]  # of each task's last epoch
    assert len(result.curves.terms["kd"]) == 10 and result.curves.terms["kd"][:2] == [0, 0]  # no teacher at first
    assert (lives[0].phase, lives[0].epoch, lives[0].epochs) == ("task 1 of 5", 1, 10)
    assert (lives[-1].phase, lives[-1].epoch, lives[-1].epochs) == ("task 5 of 5", 10, 10)
    # The classes' accuracies, weighted by their test images, are that on all of them.
    labels = load("digits", Path()).test.labels
    sizes = [sum(int((labels == label).sum()) for label in task) for task in told.classes]
    weighted = sum(size * row for size, row in zip(sizes, told.matrix[-1], strict=True)) / sum(sizes)
    assert told.final == pytest.approx(weighted)


def test_classes_arrive_as_the_seed_says_and_the_first_task_is_every_methods(make: Make, tmp_path: Path) -> None:
    cells = [make("ce"), make("kd", LWF), make("ce", memory=20), make("ce", seed=1)]
    one, other, kept, another = (once(cell, tmp_path / str(i)).result for i, cell in enumerate(cells))
    assert one.incremental and other.incremental and kept.incremental and another.incremental
    assert one.incremental.classes == other.incremental.classes != another.incremental.classes
    assert one.curves.test_loss[:2] == other.curves.test_loss[:2] == kept.curves.test_loss[:2]
    assert one.curves.test_loss[2:] != other.curves.test_loss[2:]


# -- what a task sees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kept"),
    [({}, [0, 0, 0]), ({"memory": 20}, [20, 20, 18]), ({"exemplars": 3, "choice": "random"}, [6, 12, 18])],
)
def test_a_task_is_trained_on_its_classes_and_what_was_kept(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], kept: list[int]
) -> None:
    seen = []

    def training(student: Any, teacher: Any, method: Any, data: Any, *rest: Any, **how: Any) -> Any:
        seen.append((teacher, data, how["shared"]))
        return real(student, teacher, method, data, *rest, **how)

    real = sequence.training
    monkeypatch.setattr(sequence, "training", training)
    made, _ = learned(make("kd", LWF, **asked), tmp_path)
    assert [shared for _, _, shared in seen] == [None, 2, 4, 6, 8]
    for task, (teacher, data, _) in zip(made.tasks, seen, strict=True):
        old = data.train.labels < task.old
        assert set(data.train.labels[~old].tolist()) == set(range(task.old, task.seen))
        assert int((~old).sum()) == len(task.new(made.data.train))
        assert set(data.test.labels.tolist()) == set(range(task.seen))
        assert (teacher is None) == (task.number == 0) and (teacher is None or teacher.classes == task.old)
        if 0 < task.number <= len(kept):
            assert int(old.sum()) == kept[task.number - 1]
            if kept[0]:
                assert set(data.train.labels[old].tolist()) == set(range(task.old))


def test_joint_training_sees_all_images_of_all_classes_so_far(make: Make, tmp_path: Path) -> None:
    made, past = learned(make(memory="all"), tmp_path)
    assert past.images == [int((made.data.train.labels < task.seen).sum()) for task in made.tasks]


def test_a_full_classifier_trains_the_rows_of_its_classes_alone(make: Make, tmp_path: Path) -> None:
    made, past = learned(make(classifier="full", count=2, base=6), tmp_path)
    assert past.weights["fc.weight"].shape[0] == 10
    torch.manual_seed(sequence.stream("student", 0, 0))
    start = sequence.networks.build("resnet8x0.25", 10, (1, 8, 8)).state_dict()
    first = drive(made.learn(made.tasks[0], Past(), sequence.Within(Checkpoints(tmp_path / "other"), Past(), None)))
    decayed = first.weights["fc.bias"] / start["fc.bias"]
    assert torch.allclose(decayed[6:], decayed[6:].mean()) and not torch.allclose(decayed[:6], decayed[6:].mean())


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 7, 8])  # in the first task, and in the middle of the second one's two epochs
def test_a_sequence_that_was_interrupted_ends_with_the_same_bits(make: Make, tmp_path: Path, step: int) -> None:
    cell = make("kd", LWF, memory=20, alignment=True)
    steps: list[Live] = []

    def stop(live: Live) -> None:
        steps.append(live)
        if len(steps) == step:
            raise Stopped

    undisturbed = once(cell, tmp_path / "whole")
    with pytest.raises(Stopped):
        once(cell, tmp_path / "cut", every=0, watch=stop)
    again: list[Live] = []
    resumed = once(cell, tmp_path / "cut", every=0, watch=again.append)
    assert same_bits(undisturbed.result, resumed.result)
    assert again[0].epoch >= steps[-1].epoch  # what was saved is not done again


def test_a_sequence_that_was_killed_between_two_tasks_ends_with_the_same_bits(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make("weighted_features", exemplars=2, classifier="full", task_loss="balanced")
    undisturbed = once(cell, tmp_path / "whole")
    calls = 0

    def training(*what: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped
        return real(*what, **how)

    real = sequence.training
    monkeypatch.setattr(sequence, "training", training)
    with pytest.raises(Stopped):
        once(cell, tmp_path / "cut", every=0)
    resumed = once(cell, tmp_path / "cut")
    assert calls == 6  # two tasks, the one that was killed, and the three that were left
    assert same_bits(undisturbed.result, resumed.result)
