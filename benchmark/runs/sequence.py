"""A sequence of tasks. Each is a run of the one training loop, with the network before the task as its teacher.

Everything that a task starts from (weights, kept images, measurements) is in ``Past``. A checkpoint holds it beside the
state of the task's training. A sequence that was killed at any moment therefore ends with the same bits.
"""

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.benchmark import data as datasets
from kdbench.benchmark import networks
from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.incremental.classifier import align, balanced, take_over
from kdbench.benchmark.incremental.exemplars import kept
from kdbench.benchmark.incremental.tasks import Task, arriving, order, tasks
from kdbench.benchmark.randomness import stream
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.weights import size
from kdbench.benchmark.training.checkpoint import Checkpoints, State
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import Score, evaluate, shown
from kdbench.benchmark.training.loop import Epoch, Live, training
from kdbench.methods.chain import Chain


@dataclass
class Past:
    """The results of the finished tasks: everything that the next one starts from."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    exemplars: list[Tensor] = field(default_factory=list)  # rows of the training set, for each class seen
    epochs: list[list[Epoch]] = field(default_factory=list)  # of each task
    images: list[int] = field(default_factory=list)  # how many each task was trained on
    matrix: list[list[float]] = field(default_factory=list)  # top-1 on each task's classes, a row after each task
    params: dict[str, Any] = field(default_factory=dict)  # of the last task's method, resolved
    method_parameters: int = 0

    @classmethod
    def of(cls, saved: State) -> "Past":
        """The past that a checkpoint holds."""
        return cls(**saved | {"epochs": [[Epoch.of(epoch) for epoch in task] for task in saved["epochs"]]})


class Within(Checkpoints):
    """A sequence's checkpoints, as the training of one task sees them. The past is saved with each of them, and only
    the task that was interrupted finds one."""

    def __init__(self, whole: Checkpoints, past: Past, begun: State | None) -> None:
        super().__init__(whole.last.parent)
        self.whole, self.past, self.begun = whole, past, begun

    def due(self) -> bool:
        return self.whole.due()

    def save(self, state: State) -> None:
        self.whole.save({"past": asdict(self.past), "task": state})

    def load(self) -> State | None:
        return self.begun


class Sequence:
    """The tasks of a cell, and the data set with its classes in the order of their arrival."""

    def __init__(self, cell: Cell, data: Dataset, engine: Engine) -> None:
        assert cell.incremental
        self.cell, self.asked, self.engine = cell, cell.incremental, engine
        self.known = datasets.source(cell.dataset)
        self.order = order(self.known.classes, cell.seed)
        self.data = arriving(data, self.order)
        self.tasks = list(tasks(self.asked.sizes(self.known.classes)))

    def run(self, checkpoints: Checkpoints) -> Generator[Live, None, Past]:
        """Train the student task by task, a step at a time, from the last checkpoint if there is one."""
        saved = checkpoints.load()
        past, begun = (Past.of(saved["past"]), saved["task"]) if saved else (Past(), None)
        for task in self.tasks[len(past.epochs) :]:
            past = yield from self.learn(task, past, Within(checkpoints, past, begun))
            begun = None
            if checkpoints.due():
                checkpoints.save({"past": asdict(past), "task": begun})
        return past

    def learn(self, task: Task, past: Past, checkpoints: Checkpoints) -> Generator[Live, None, Past]:
        """Train one task. Returns the past, with this task included."""

        # -- student, teacher and data --------------------------------------------------------------------------------
        cell, engine, first = self.cell, self.engine, task.number == 0
        rows = torch.cat([task.new(self.data.train), *past.exemplars]).sort().values
        seen = self.data.test.labels < task.seen
        data = replace(self.data, train=self.data.train[rows], test=self.data.test[seen])
        torch.manual_seed(stream("student", cell.seed, task.number))
        full = self.asked.classifier == "full"
        network = self.network(self.known.classes if full else task.seen, past)
        student = network.answering(task.seen) if full else network
        name, params, teacher = cell.method, cell.params, None
        if methods.taught(name):
            if first:
                name, params = "ce", {}
            else:
                teacher = self.network(task.old, past)
                engine.place(teacher, cell.training)

        facts = cell.training.facts(task.seen, data.train.labels)
        facts = replace(facts, images=partial(shown, data, engine), continued=True)
        torch.manual_seed(stream("method", cell.seed, task.number))
        params = methods.resolve(name, student, teacher or student, facts, **params)
        method = methods.create(name, student, teacher or student, facts, **params)
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
        if self.asked.task_loss == "balanced":
            criterion = balanced(data.train.labels, task.seen, engine.device)

        # -- the task -------------------------------------------------------------------------------------------------
        steps = training(
            student, teacher, method, data, cell.training, stream("task", cell.seed, task.number),
            shared=task.old if teacher else None, criterion=criterion, engine=engine, checkpoints=checkpoints,
        )  # fmt: skip
        epochs = yield from self.told(task, steps)

        # -- its results ----------------------------------------------------------------------------------------------
        if self.asked.alignment and not first:
            align(network.classifier, task.old, task.seen)
        epochs[-1] = replace(epochs[-1], score=self.score(student, seen))
        row = [self.score(student, one.new(self.data.test)).top1 for one in self.tasks[: task.number + 1]]
        exemplars = kept(past.exemplars, self.asked, task, student, self.data, engine, cell.seed)
        return Past(
            weights={key: value.cpu() for key, value in network.state_dict().items()},
            exemplars=exemplars,
            epochs=[*past.epochs, epochs],
            images=[*past.images, len(rows)],
            matrix=[*past.matrix, row],
            params=params,
            method_parameters=size(method),
        )

    def network(self, classes: int, past: Past) -> Chain:
        """The network with its past weights and with outputs for this many classes. New outputs are drawn at random."""
        return take_over(networks.build(self.cell.student, classes, self.known.image), past.weights)

    @property
    def classes(self) -> list[list[int]]:
        """The classes of each task, by their numbers in the data set."""
        return [self.order[task.old : task.seen].tolist() for task in self.tasks]

    def score(self, student: Chain, rows: Tensor) -> Score:
        test = self.data.test[rows].to(self.engine.device)
        return evaluate(student, test, Normalise(self.data, self.engine.device))

    def told(self, task: Task, steps: Generator[Live, None, list[Epoch]]) -> Generator[Live, None, list[Epoch]]:
        """The steps of one task, with epochs counted over all tasks."""
        name, epochs = f"task {task.number + 1} of {len(self.tasks)}", self.cell.training.epochs
        while True:
            try:
                live = next(steps)
            except StopIteration as end:
                return end.value
            if live.phase == "main":
                done = task.number * epochs + live.epoch
                yield replace(live, phase=name, epoch=done, epochs=len(self.tasks) * epochs)
            else:
                yield replace(live, phase=f"{name}, {live.phase}")
