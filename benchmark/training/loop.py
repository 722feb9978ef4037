"""The one training loop, for every method, network and phase; it starts a run or resumes a killed one.

All randomness in a step is drawn from (seed, phase, epoch, step), so an interrupted run ends with the same bits as an
uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.data.files import views as views_of
from kdbench.benchmark.data.views import Normalise, draws, strong
from kdbench.benchmark.randomness import seed_torch, stream
from kdbench.benchmark.training.checkpoint import Checkpoints, State
from kdbench.benchmark.training.compilation import forward
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import Score, evaluate
from kdbench.benchmark.training.optimizer import optimize
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.benchmark.training.recipe import Recipe
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import Answers, LiveTeacher, NoTeacher
from kdbench.methods.chain import Chain
from kdbench.methods.method import Batch, Method, Phase

T = TypeVar("T")


class Diverged(ArithmeticError):
    """The loss is NaN or infinite."""


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch."""

    phase: str
    epoch: int
    lr: float  # of the last step
    terms: dict[str, float]  # each loss term's mean over the epoch's steps
    seconds: float  # of training, without evaluation
    score: Score | None  # on the test set; initial phases are not evaluated

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "Epoch":
        """An epoch from its form in a checkpoint."""
        return cls(**saved | {"score": saved["score"] and Score(**saved["score"])})


@dataclass
class Progress:
    """The position of a run, and its sums over the current epoch so far."""

    phase: int = 0
    epoch: int = 1
    step: int = 0
    lr: float = 0.0  # of the last step; the schedule has moved on since
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def next_epoch(self) -> None:
        self.epoch, self.step, self.seconds, self.sums = self.epoch + 1, 0, 0.0, {}

    def next_phase(self) -> None:
        self.phase, self.epoch = self.phase + 1, 1


@dataclass(frozen=True)
class Live:
    """The progress of a run, reported after every step; a checkpoint that was due is written by then."""

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int


def drive(steps: Generator[Live, None, T], watch: Callable[[Live], None] | None = None) -> T:
    """Run all steps without a pause and return the final result; ``watch`` is called after every step."""
    while True:
        try:
            live = next(steps)
        except StopIteration as end:
            return end.value
        if watch:
            watch(live)


def training(
    student: Chain,
    teacher: Chain | None,
    method: Method,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    shared: int | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    engine: Engine | None = None,
    checkpoints: Checkpoints | None = None,
    ask_teacher: Answers | None = None,
    ranks: Ranks = ALONE,
) -> Generator[Live, None, list[Epoch]]:
    """Train ``student`` in place, one step at a time, and return the results of each epoch.

    The caller may run steps of other cells in between. Steps share only torch's global random state, and every step
    seeds it again.
    """

    # -- setup --------------------------------------------------------------------------------------------------------
    engine = engine or Engine.best()
    engine.prepare()
    for module in (student, method) if teacher is None else (student, method, teacher):
        engine.place(module, recipe)
    data = data.to(engine.device)
    views = views_of(data, recipe.augment)
    needs = method.needs()
    ask_teacher = ask_teacher or (NoTeacher() if teacher is None else LiveTeacher(teacher, needs))
    step = Step(student, method, shared)
    phases = (*method.phases, Phase("main", recipe.epochs, task=True))
    steps = recipe.steps(len(data.train))
    generator = torch.Generator(engine.device)
    own = ranks.own
    methods_own = () if needs.whole_batch else own  # a method that sees all ranks' images draws the same on all

    # -- resume -------------------------------------------------------------------------------------------------------
    history: list[Epoch] = []
    progress = Progress()
    saved = ranks.given(checkpoints.load() if checkpoints else None)
    fitting = checkpoints.fitting if checkpoints else nullcontext
    if saved:
        with fitting():
            student.load_state_dict(saved["student"])
            method.load_state_dict(saved["method"])
            history = [Epoch.of(epoch) for epoch in saved["history"]]
            progress = Progress(**saved["progress"])
        progress.sums = {name: value.to(engine.device) for name, value in progress.sums.items()}
    else:
        method.prepare()

    def state() -> State:
        return {
            "student": student.state_dict(),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "history": [asdict(epoch) for epoch in history],
            "progress": vars(progress),
        }

    # -- the steps ----------------------------------------------------------------------------------------------------
    for phase in phases[progress.phase :]:
        trained = [module for module, yes in ((student, phase.student), (method, phase.method)) if yes]
        parameters = [p for module in trained for p in module.parameters() if p.requires_grad]
        optimizer, schedule = optimize(parameters, recipe, steps, initial=phase.name != "main")
        if saved:
            with fitting():
                optimizer.load_state_dict(saved["optimizer"])
                schedule.load_state_dict(saved["schedule"])
            saved = None
        answers = ask_teacher if method.listens(phase.name) else NoTeacher()
        terms_of = forward(engine, ranks.together(step), answers, recipe.batch)

        while progress.epoch <= phase.epochs:
            epoch = torch.tensor(float(progress.epoch), device=engine.device)
            epoch_seed = (seed, phase.name, progress.epoch)
            student.train(phase.student)
            method.train(phase.method)
            started = time.perf_counter() - progress.seconds

            steps_ahead = draws(data.train, views.count, recipe.batch, *epoch_seed, start=progress.step)
            for draw, seen in views.shown(ranks.shares(steps_ahead)):
                seed_torch(stream("step", *epoch_seed, draw.step, *own), engine.device)
                generator.manual_seed(stream("method", *epoch_seed, draw.step, *methods_own))
                images = tuple(look(views.normalise, name, seen, *epoch_seed, draw.step, *own) for name in needs.views)
                if needs.input_grad:
                    images = tuple(image.requires_grad_() for image in images)
                labels = data.train.labels[draw.index]
                batch = Batch(images, labels, draw.index, epoch, generator, phase.name, criterion, draw.number)

                terms = terms_of(batch, phase.task, draw.sizes)
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                progress.lr = optimizer.param_groups[0]["lr"]
                optimizer.step()
                schedule.step()

                for name, term in ranks.mean(terms).items():
                    progress.sums[name] = progress.sums.get(name, 0) + term
                progress.step = draw.step + 1
                progress.seconds = time.perf_counter() - started
                if checkpoints and checkpoints.due():
                    checkpoints.save(state())
                yield Live(phase.name, progress.epoch, phase.epochs, progress.step, steps)
                started = time.perf_counter() - progress.seconds

            means = {name: float(total) / steps for name, total in progress.sums.items()}  # waits for the device
            seconds = time.perf_counter() - started
            shipped = ranks.levelled(method.deployed(student))
            score = evaluate(shipped, data.test, views.normalise, among=ranks) if phase.task else None
            losses = means | ({"test": score.loss} if score else {})  # the last step may have made the weights overflow
            if not all(math.isfinite(loss) for loss in losses.values()):
                raise Diverged(
                    f"the loss is no longer a number in epoch {progress.epoch} of phase {phase.name}: {losses}"
                )
            history.append(Epoch(phase.name, progress.epoch, progress.lr, means, seconds, score))
            progress.next_epoch()
            if checkpoints and checkpoints.due():
                checkpoints.save(state())

        progress.next_phase()
    return history


def look(normalise: Normalise, view: str, seen: Tensor, *seed: int | str) -> Tensor:
    """The normalised images of a step: augmented by the recipe, or with a strong augmentation on top of that."""
    match view:
        case "recipe":
            return normalise(seen)
        case "strong":
            return normalise(strong(seen, stream("strong", *seed)))
        case _:
            raise ValueError(f"a view must be 'recipe' or 'strong', got '{view}'")
