"""The training speed of one cell: times the real loop with its real method, recipe and data.

It measures the steady state of the main phase and of each phase before it, without evaluation and without a look at the
training set before the first step. Speed does not depend on what is learned, so the teacher need not be trained. The
learning rate is so small that nothing can diverge.
"""

import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import torch

from kdbench import methods
from kdbench.benchmark import data, networks
from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.data.views import views_of_an_image
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.environment import environment
from kdbench.benchmark.records.weights import parameters, size
from kdbench.benchmark.runs.run import load_data
from kdbench.benchmark.throughput.peak import peak_flops, timed
from kdbench.benchmark.throughput.record import Pace, Throughput, measured
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.loop import Live, training
from kdbench.benchmark.training.memory import RememberingTeacher, affordable
from kdbench.benchmark.training.peak_memory import PeakMemory
from kdbench.benchmark.training.recipe import Recipe
from kdbench.benchmark.training.teacher import Answers
from kdbench.methods.chain import Chain
from kdbench.methods.method import Method, Phase

WARM_UP = 5  # steps before the length of a window is chosen
WINDOWS = 5  # that count; one more before them does not
SECONDS = 0.5  # minimum length of a window
STILL_EMPTY = 0.1  # at most this share of answers is found in an empty memory
ENDLESS = 10**9  # epochs
SURVEYED = 500  # images shown to a method before the first step; its findings do not change speed


@dataclass(frozen=True)
class Learners:
    """A student, a method and a teacher, all untrained."""

    student: Chain
    teacher: Chain | None
    method: Method
    phases: tuple[Phase, ...]  # before the main one

    def steps(
        self, dataset: Dataset, recipe: Recipe, engine: Engine, ask_teacher: Answers | None = None
    ) -> Iterator[Live]:
        """The steps of the real loop, endlessly."""
        endless = msgspec.structs.replace(recipe, epochs=ENDLESS, milestones=(), schedule="constant", lr=1e-6)
        unseen = replace(dataset, test=dataset.test[torch.arange(1)])  # evaluation does not count as training speed
        return training(
            self.student, self.teacher, self.method, unseen, endless, seed=0, engine=engine, ask_teacher=ask_teacher
        )

    def sizes(self) -> dict[str, int]:
        """Sizes as fields of a record."""
        return {
            "method_parameters": size(self.method),
            "student_parameters": parameters(self.student),
            "deployed_parameters": parameters(self.method.deployed(self.student)),
            "student_macs": self.student.macs,
            "teacher_macs": self.teacher.macs if self.teacher else 0,
        }


def learners(cell: Cell, dataset: Dataset, engine: Engine, phase: Phase | None = None) -> Learners:
    """Untrained learners for the main phase, or for ``phase``.

    A method that would choose depths by looking at its teacher uses its defaults.
    """
    known = data.source(cell.dataset)
    torch.manual_seed(0)
    student = networks.build(cell.student, known.classes, known.image)
    teacher = networks.build(cell.teacher.student, known.classes, known.image) if cell.teacher else None
    facts = cell.training.facts(known.classes, dataset.train.labels)
    facts = replace(facts, images=lambda rows: shown(dataset, engine, rows[:SURVEYED]))
    method = methods.create(cell.method, student, teacher or student, facts, **cell.params)
    phases, method.phases = method.phases, (replace(phase, epochs=ENDLESS),) if phase else ()
    return Learners(student, teacher, method, phases)


def memory(taught: Learners, dataset: Dataset, recipe: Recipe, folder: Path) -> RememberingTeacher | None:
    """A memory (cache) of the teacher's answers in this folder; None if a run would not have one."""
    views, needs = len(dataset.train) * views_of_an_image(dataset, recipe.augment), taught.method.needs()
    if taught.teacher is None or not affordable(needs, taught.teacher, views):
        return None
    return RememberingTeacher(taught.teacher, needs, views, folder)


def measure(cell: Cell, engine: Engine, data_folder: Path, scratch: Path) -> Throughput:
    """The throughput record of a cell. ``scratch`` is a folder for a temporary memory."""
    cell, recipe = measured(cell), cell.training
    dataset = load_data(cell.dataset, data_folder)
    peak = peak_flops(engine.device, recipe.precision)
    fresh = partial(learners, cell, dataset, engine)
    taught = fresh()
    sizes, needs = taught.sizes(), taught.method.needs()
    steps = recipe.steps(len(dataset.train))
    images = len(dataset.train) / steps  # per step, including the last partial batch of the epoch
    student_passes = 3 * sizes["student_macs"]  # a backward pass costs two forward passes
    teacher_pass = sizes["teacher_macs"] if taught.method.listens("main") else 0

    labels = msgspec.structs.replace(cell, teacher=None, method="ce", params=complete("ce", {}))

    def clock(taught: Learners, answers: RememberingTeacher | None = None, count: int | None = None) -> Clock:
        settled = engine.settled(steps * recipe.epochs, taught.method.needs())  # compiled if a run would be
        return Clock(taught.steps(dataset, recipe, settled, answers), settled, count)

    def pace(own: Clock, macs: int) -> Pace:
        """Time windows in turn with windows of labels only, so that a busy machine slows both."""
        clocks = [own] if cell == labels else [own, clock(learners(labels, dataset, engine))]
        turns = [[each.window() for each in clocks] for _ in range(WINDOWS)]
        windows = [turn[0] for turn in turns]
        seconds = statistics.median(windows)
        return Pace(
            cost=round(statistics.median(turn[0] / turn[-1] for turn in turns), 4),
            images_per_second=round(images / seconds, 1),
            step_ms=round(1000 * seconds, 4),
            peak_memory_mb=round(own.peak_memory / 2**20, 1),
            tflops=round(2 * images * len(needs.views) * macs / seconds / 1e12, 6),
            windows_ms=[round(1000 * window, 4) for window in windows],
        )

    live, phases = pace(clock(taught), student_passes + teacher_pass), taught.phases
    del taught  # free its memory before the next measurement
    initial = sum(phase.epochs * pace(clock(fresh(phase)), 0).cost for phase in phases) / recipe.epochs

    # Two passes over the same steps of one epoch, which sees no view twice: the memory is empty, then full. An epoch
    # may be too short for that.
    longest = (steps - WARM_UP - 1) // (WINDOWS + 1)
    count = max(1, min(longest, math.ceil(SECONDS / (live.step_ms / 1000))))

    def by_memory(folder: str, macs: int, found_at_most: float = 1.0) -> Pace | None:
        taught = fresh()
        answers = memory(taught, dataset, recipe, Path(folder))
        if answers is None:
            return None
        paced = pace(clock(taught, answers, count), macs)
        return paced if answers.share <= found_at_most else None

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        cold = by_memory(folder, student_passes + teacher_pass, found_at_most=STILL_EMPTY)
        remembered = by_memory(folder, student_passes)
    return Throughput(
        id=cell.id,
        dataset=cell.dataset,
        teacher=cell.teacher.student if cell.teacher else "",
        student=cell.student,
        method=cell.method,
        params=cell.params,
        recipe=cell.protocol,
        epochs=recipe.epochs,
        batch=recipe.batch,
        precision=recipe.precision,
        environment=environment(engine.settled(steps * recipe.epochs, needs), recipe.precision),
        live=live,
        cold=cold,
        remembered=remembered,
        initial=round(initial, 4),
        views=views_of_an_image(dataset, recipe.augment),
        peak_tflops=round(peak / 1e12, 6),
        **sizes,
    )


class Clock:
    """Times a training, after a warm-up, in windows of ``count`` steps."""

    def __init__(self, steps: Iterator[Live], engine: Engine, count: int | None = None) -> None:
        self.steps, self.engine = steps, engine
        with PeakMemory(engine) as memory:
            self._walk(WARM_UP)
            self.count = count or math.ceil(SECONDS / self._walk(1))
            self.window()
        self.peak_memory = memory.peak

    def window(self) -> float:
        """Seconds per step."""
        return self._walk(self.count)

    def _walk(self, count: int) -> float:
        return timed(lambda: next(self.steps), count, self.engine.device)
