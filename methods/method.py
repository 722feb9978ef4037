"""The contract between a method and the training loop: what a method is told, what it asks for, what it answers."""

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
    raise RuntimeError("training images can be looked at only when a run begins, and not while it is planned")


def _afresh(name: str, find: Callable[[], Any]) -> Any:
    return find()


@dataclass(frozen=True)
class Facts:
    """What is known of a training run before its first step."""

    classes: int
    labels: Tensor  # of the whole training set, in its order
    batch: int
    steps: int  # an epoch
    epochs: int  # of the main phase
    images: Callable[[Tensor], Iterator[Tensor]] = _not_yet  # those at some rows, in batches and not augmented
    remembered: Callable[[str, Callable[[], Any]], Any] = _afresh  # what was found before, by its name, of this teacher
    continued: bool = False  # the teacher is the student as it was before: their features need no projector

    @property
    def size(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """One step's images and labels, and what a method may need to know of the step."""

    views: tuple[Tensor, ...]  # the same images, augmented in each of the ways that Needs.views names
    labels: Tensor
    index: Tensor  # of each image in the training set: memory banks are addressed by it
    epoch: Tensor  # 0-dim and counted from 1; a plain number would make torch.compile start anew every epoch
    generator: Generator  # for a method's own draws; seeded from (seed, epoch, step)
    phase: str = "main"
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    view: Tensor | None = None  # the number, among all views of all images, of each that is seen; it stays on the CPU

    @property
    def images(self) -> Tensor:
        return self.views[0]

    def warmed(self, epochs: int) -> Tensor:
        """The share of its weight that a term has by now, if it grows linearly over the first ``epochs`` epochs."""
        return (self.epoch / max(epochs, 1)).clamp(max=1)

    def task(self, logits: Tensor) -> Tensor:
        """The loss of the task itself, for those that need it elsewhere than on the student's logits."""
        return self.criterion(logits, self.labels)


@dataclass(frozen=True)
class Needs:
    """The one place where a method says what it wants from the loop."""

    student: frozenset[int] = frozenset()  # depths that losses() reads
    teacher: frozenset[int] = frozenset()
    teacher_embedding: bool = False  # losses() reads teacher.embedding; the student's is there for everyone
    cut: int | None = None  # cross-entropy's gradient stops behind this student depth
    labels: bool = False  # losses() reads batch.labels
    live_teacher: bool = False  # runs the teacher itself (its tail, say): its answers cannot be remembered
    input_grad: bool = False  # both traces can be differentiated by batch.images; no compilation on this path
    teacher_train: bool = False  # the teacher normalises with batch statistics; its buffers stay as they are
    views: tuple[str, ...] = ("recipe",)  # further views are in student.views, teacher.views, batch.views
    whole_batch: bool = False  # relational: traces and batch are gathered over ranks first


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimiser of its own; ``batch.phase`` tells losses() which one it is in."""

    name: str
    epochs: int
    student: bool = True  # is the student trained?
    method: bool = True  # is the method's own part trained?
    task: bool = False  # is cross-entropy added?


class Method(nn.Module):
    """One way to carry knowledge from a frozen teacher to a student.

    The keyword-only arguments of a constructor are the method's hyper-parameters. Adapters and memory banks are
    submodules and buffers, so that checkpoints restore them.
    """

    source: ClassVar[Source]
    taught: ClassVar[bool] = True  # is there a teacher at all?
    phases: tuple[Phase, ...] = ()  # that come before the main one

    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, ce_weight: float = 1.0) -> None:
        super().__init__()
        self._teacher = (teacher,)  # in a tuple, where nn.Module does not look: the teacher is never a submodule
        self.ce_weight = ce_weight  # the loop adds ce_weight * batch.task(student.logits)

    @classmethod
    def resolve(cls, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> dict[str, Any]:
        """Parameters such as "by quality" turned into plain ones, once, before the first step."""
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
        """Whether losses() reads what the teacher says in this phase; where not, it is not asked, and says nothing."""
        return self.taught

    def prepare(self) -> None:
        """Once, before the first step, when the networks are where they will be: look at the training set, if it must
        be. What is found goes into buffers, where a run that was interrupted finds it again."""

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        """The knowledge terms alone, named and weighted; the loop sums them and adds cross-entropy."""
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
