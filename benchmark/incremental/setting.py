"""What a cell of the incremental setting asks for: how classes arrive, and what is kept of those that came before."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kdbench.benchmark.training.recipe import Count
from kdbench.refusal import Refusal

Kept = Annotated[int, Meta(ge=0)]


class Incremental(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In every task the method carries the knowledge of the network before it; in the first there is none to carry."""

    count: Count  # of tasks, equally many classes in each; one task is ordinary training
    base: Count | None = None  # the classes of the first task, if it has more than the others
    memory: Kept | Literal["all"] = 0  # images kept in all, shared evenly by the classes seen; all: joint training
    exemplars: Kept = 0  # or images kept of each class
    choice: Literal["herding", "random"] = "herding"  # herding: those whose mean embedding is nearest to the class's
    classifier: Literal["growing", "full"] = "growing"  # full: outputs for all classes from the start, silent till then
    task_loss: Literal["cross_entropy", "balanced"] = "cross_entropy"  # balanced: softmax weighted by class sizes
    alignment: bool = False  # after each task, new classes' weights are scaled to the length of the old ones'

    def __post_init__(self) -> None:
        if self.memory and self.exemplars:
            raise ValueError("memory is counted in all and exemplars a class: one of them must be 0")

    def sizes(self, classes: int) -> tuple[int, ...]:
        """How many classes arrive with each task."""
        base = self.base or classes // self.count
        later = (classes - base) // max(self.count - 1, 1) if self.base else base
        if base + later * (self.count - 1) != classes or base < 2 or later < 1 < self.count:
            asked = f"{self.count} equal tasks" if self.base is None else f"{base} and {self.count - 1} equal tasks"
            raise Refusal(f"{classes} classes must come in {asked}, at least two of them first: that cannot be")
        if isinstance(self.memory, int) and 0 < self.memory < classes:
            raise Refusal(f"memory must hold an image of each of the {classes} classes, got {self.memory}")
        return base, *[later] * (self.count - 1)

    def of_each(self, seen: int) -> int | None:
        """How many images of a class are kept once so many classes were seen; None is all of them."""
        if self.memory == "all":
            return None
        return self.exemplars or self.memory // seen

    def __str__(self) -> str:
        words = [f"{self.count} tasks" if self.count > 1 else "1 task"]
        words += [f"base {self.base}"] if self.base else []
        words += [f"memory {self.memory}"] if self.memory else []
        words += [f"{self.exemplars} exemplars"] if self.exemplars else []
        words += [self.choice] if self.exemplars or self.memory not in (0, "all") else []
        words += ["full classifier"] if self.classifier == "full" else []
        words += ["balanced"] if self.task_loss == "balanced" else []
        words += ["aligned"] if self.alignment else []
        return ", ".join(words)
