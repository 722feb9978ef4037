"""What a run leaves behind, and what it tells while it goes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from kdbench.benchmark.data import Dataset
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.evaluate import Score, evaluate
from kdbench.benchmark.training.loop import Epoch, Live
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods import METHODS
from kdbench.methods.chain import Chain
from kdbench.methods.method import Phase
from tests.conftest import train

Make = Callable[..., Chain]


def learn(student: Chain, teacher: Chain, data: Dataset, recipe: Recipe, **how: Any) -> list[Epoch]:
    """By ``kd``, with an initial phase in which the task counts too."""
    method = METHODS["kd"](student, teacher, recipe.facts(4, data.train.labels))
    method.phases = (Phase("first", 1, task=True),)
    return train(student, teacher, method, data, recipe, 0, **how)


def same(a: Chain, b: Chain) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_learns_what_there_is_to_learn(make_student: Make, dataset: Dataset) -> None:
    recipe = Recipe(epochs=12, batch=16, schedule="onecycle", lr=0.1)
    teacher, student = make_student(0), make_student(1)
    facts = recipe.facts(4, dataset.train.labels)
    taught = train(teacher, None, METHODS["ce"](teacher, teacher, facts), dataset, recipe, seed=0)
    learned = train(student, teacher, METHODS["kd"](student, teacher, facts), dataset, recipe, seed=0)
    for history in (taught, learned):
        assert history[-1].terms["task"] < 0.7 * history[0].terms["task"]
        assert history[-1].score
        assert history[-1].score.top1 > 60  # chance is 25


def test_the_last_score_is_that_of_the_student_that_is_left(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    student = make_student(1)
    history = learn(student, make_student(0), dataset, recipe)
    normalise = Normalise(dataset, torch.device("cpu"))
    assert history[-1].score == evaluate(student, dataset.test, normalise)
    assert history[0].score != history[-1].score


def test_a_watcher_is_told_of_every_step(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    told: list[Live] = []
    learn(make_student(1), make_student(0), dataset, recipe, watch=told.append)
    first = [Live("first", 1, 1, step, 4) for step in (1, 2, 3, 4)]
    assert told == first + [Live("main", epoch, 2, step, 4) for epoch in (1, 2) for step in (1, 2, 3, 4)]


def test_an_epoch_tells_the_rate_it_was_trained_with(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    falling = msgspec.structs.replace(recipe, schedule="steps", milestones=(1,))
    history = learn(make_student(1), make_student(0), dataset, falling)
    assert [epoch.lr for epoch in history] == pytest.approx([0.05, 0.05, 0.005])


def test_writing_checkpoints_changes_no_bit(
    make_student: Make, dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    plain, safe, begun = make_student(1), make_student(1), make_student(1)
    without = learn(plain, make_student(0), dataset, recipe)
    with_them = learn(safe, make_student(0), dataset, recipe, checkpoints=Checkpoints(tmp_path, every=0))
    assert same(plain, safe)
    assert not same(plain, begun)
    assert [replace(epoch, seconds=0.0) for epoch in without] == [replace(epoch, seconds=0.0) for epoch in with_them]


def test_a_finished_run_taken_up_again_takes_no_step_and_says_the_same(
    make_student: Make, dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    done, other = make_student(1), make_student(2)
    history = learn(done, make_student(0), dataset, recipe, checkpoints=Checkpoints(tmp_path, every=0))
    told: list[Live] = []
    checkpoints = Checkpoints(tmp_path, every=0)
    again = learn(other, make_student(0), dataset, recipe, checkpoints=checkpoints, watch=told.append)
    assert told == []
    assert again == history
    assert same(other, done)


def test_the_seconds_of_a_run_that_was_broken_off_are_not_lost(
    make_student: Make, dataset: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks once a second whenever it is looked at, and is set back when a run begins anew."""
    ticks = 0.0

    def clock() -> float:
        nonlocal ticks
        ticks += 1
        return ticks

    class Broken(Exception):
        pass

    def break_off(live: Live) -> None:
        if (live.phase, live.epoch, live.step) == ("main", 1, 3):
            raise Broken

    monkeypatch.setattr("kdbench.benchmark.training.loop.time.perf_counter", clock)
    whole = learn(make_student(1), make_student(0), dataset, recipe)
    ticks = 0.0
    with pytest.raises(Broken):
        learn(
            *(make_student(1), make_student(0), dataset, recipe),
            watch=break_off,
            checkpoints=Checkpoints(tmp_path, every=0),
        )
    ticks = 0.0
    resumed = learn(make_student(1), make_student(0), dataset, recipe, checkpoints=Checkpoints(tmp_path, every=0))
    assert [epoch.seconds for epoch in resumed] == [epoch.seconds for epoch in whole]


def test_neither_evaluation_nor_what_other_cells_do_in_between_is_a_runs_own_time(
    make_student: Make, dataset: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, elsewhere = 0.0, 0.0

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    def pass_elsewhere(*_: object) -> None:
        nonlocal now
        now += elsewhere

    def evaluated(*what: Any, **how: Any) -> Score:
        pass_elsewhere()
        return evaluate(*what, **how)

    monkeypatch.setattr("kdbench.benchmark.training.loop.time.perf_counter", clock)
    monkeypatch.setattr("kdbench.benchmark.training.loop.evaluate", evaluated)
    alone = learn(make_student(1), make_student(0), dataset, recipe, watch=pass_elsewhere)
    elsewhere = 1000.0
    beside = learn(make_student(1), make_student(0), dataset, recipe, watch=pass_elsewhere)
    assert [epoch.seconds for epoch in beside] == [epoch.seconds for epoch in alone]
