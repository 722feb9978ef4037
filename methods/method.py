"""The contract between a method and the training loop: what a method receives, requests and returns."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.registry import Registry
from kdbench.refusal import OWN, Refusal

Source = Literal["labels", "logits", "features", "gradients", "relations"]
SOURCES: tuple[Source, ...] = get_args(Source)


def _not_yet(rows: Tensor) -> Iterator[Tensor]:
    raise RuntimeError("training images can be read only when a run begins, not while it is planned")


def _afresh(name: str, find: Callable[[], Any]) -> Any:
    return find()


@dataclass(frozen=True)
class Facts:
    """What is known about a training run before its first step."""

    classes: int
    labels: Tensor  # of the whole training set, in its order
    batch: int
    steps: int  # per epoch
    epochs: int  # of the main phase
    images: Callable[[Tensor], Iterator[Tensor]] = _not_yet  # the images at given rows, in batches, not augmented
    remembered: Callable[[str, Callable[[], Any]], Any] = _afresh  # a finding about this teacher, cached by name
    continued: bool = False  # the teacher is an earlier state of the student: features need no projector

    @property
    def size(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """The images and labels of one step, and what else a method may need to know about the step."""

    views: tuple[Tensor, ...]  # the same images, augmented once for each name in Needs.views
    labels: Tensor
    index: Tensor  # of each image in the training set; addresses memory banks
    epoch: Tensor  # 0-dim, counted from 1; a plain number would make torch.compile recompile every epoch
    generator: Generator  # for the method's random draws; seeded from (seed, epoch, step)
    phase: str = "main"
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    view: Tensor | None = None  # the number of each image's view among all views of all images; on the CPU

    @property
    def images(self) -> Tensor:
        return self.views[0]

    def warmed(self, epochs: int) -> Tensor:
        """A term's current share of its weight, if it grows linearly over the first ``epochs`` epochs."""
        return (self.epoch / max(epochs, 1)).clamp(max=1)

    def task(self, logits: Tensor) -> Tensor:
        """The task's loss, for methods that also need it on other logits than the student's."""
        return self.criterion(logits, self.labels)


@dataclass(frozen=True)
class Needs:
    """Everything that a method requests from the loop."""

    student: frozenset[int] = frozenset()  # depths that losses() reads
    teacher: frozenset[int] = frozenset()
    teacher_embedding: bool = False  # losses() reads teacher.embedding; the student's is always available
    cut: int | None = None  # cross-entropy's gradient stops at this student depth
    labels: bool = False  # losses() reads batch.labels
    live_teacher: bool = False  # runs the teacher or a part of it: its answers cannot be cached
    compilable: bool = True  # False if losses() waits for the device or changes a buffer that its gradient needs
    input_grad: bool = False  # both traces can be differentiated by batch.images; not compiled
    teacher_train: bool = False  # the teacher normalises with batch statistics; its buffers do not change
    views: tuple[str, ...] = ("recipe",)  # further views are in student.views, teacher.views, batch.views
    whole_batch: bool = False  # relational: traces and batch are gathered over ranks first


@dataclass(frozen=True)
class Phase:
    """A part of training with its own optimiser; losses() finds the current phase's name in ``batch.phase``."""

    name: str
    epochs: int
    student: bool = True  # is the student trained?
    method: bool = True  # are the method's own parameters trained?
    task: bool = False  # is cross-entropy added?


class Method(nn.Module):
    """One way to transfer knowledge from a frozen teacher to a student.

    The keyword-only arguments of a constructor are the method's hyper-parameters. Adapters and memory banks are
    submodules and buffers, so checkpoints restore them.
    """

    source: ClassVar[Source]
    taught: ClassVar[bool] = True  # is there a teacher?
    phases: tuple[Phase, ...] = ()  # those before the main phase

    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, ce_weight: float = 1.0) -> None:
        super().__init__()
        self._teacher = (teacher,)  # in a tuple, which nn.Module does not search: the teacher is never a submodule
        self.ce_weight = ce_weight  # the loop adds ce_weight * batch.task(student.logits)

    @classmethod
    def resolve(cls, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> dict[str, Any]:
        """Replace parameters such as "quality" by plain values, once, before the first step."""
        return params

    @classmethod
    def draws_on(cls, params: Mapping[str, Any]) -> Source:
        """The source of knowledge with these parameters."""
        return cls.source

    @property
    def teacher(self) -> Chain:
        return self._teacher[0]

    def needs(self) -> Needs:
        return Needs()

    def listens(self, phase: str) -> bool:
        """Whether losses() reads the teacher's answers in this phase; if not, the teacher is not run and its trace is
        empty."""
        return self.taught

    def prepare(self) -> None:
        """Read the training set, if the method must; runs once before the first step, with the networks on their
        device.

        Results go into buffers, where an interrupted run finds them again.
        """

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        """The knowledge terms only, named and weighted; the loop sums them and adds cross-entropy."""
        raise TypeError(f"{type(self).__name__} must define losses()")

    def deployed(self, student: Chain) -> nn.Module:
        """The network that is evaluated and shipped."""
        return student


def above(method: str, limit: float, **values: float) -> None:
    """Refuse a hyper-parameter that is not above the limit."""
    for name, value in values.items():
        if value <= limit:
            raise Refusal(f"{method}: {name} must be above {limit}, got {value}")


METHODS: Registry[type[Method]] = Registry("method", OWN)


def hyper_parameters(method: type[Method]) -> dict[str, inspect.Parameter]:
    """A method's hyper-parameters, with their types and defaults, as its constructor declares them."""
    parameters = inspect.signature(method.__init__).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
