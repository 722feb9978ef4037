"""The options of the incremental setting: how classes arrive, and what is kept of earlier classes."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kdbench.benchmark.training.recipe import Count
from kdbench.refusal import Refusal

Kept = Annotated[int, Meta(ge=0)]


class Incremental(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In each task, the method transfers knowledge from the network before the task; the first task has no teacher."""

    count: Count  # of tasks, with equally many classes in each; one task is ordinary training
    base: Count | None = None  # the number of classes in the first task, if it differs from the others
    memory: Kept | Literal["all"] = 0  # images kept in total, shared evenly by the classes seen; all: joint training
    exemplars: Kept = 0  # or images kept per class
    choice: Literal["herding", "random"] = "herding"  # herding: those whose mean embedding is closest to the class mean
    classifier: Literal["growing", "full"] = "growing"  # full: has all outputs from the start, unused until their task
    task_loss: Literal["cross_entropy", "balanced"] = "cross_entropy"  # balanced: softmax weighted by class sizes
    alignment: bool = False  # after each task, new classes' weights are scaled to the norm of the old ones

    def __post_init__(self) -> None:
        if self.memory and self.exemplars:
            raise ValueError("memory counts images in total and exemplars images per class: one of them must be 0")

    def sizes(self, classes: int) -> tuple[int, ...]:
        """The number of classes that arrive with each task."""
        base = self.base or classes // self.count
        later = (classes - base) // max(self.count - 1, 1) if self.base else base
        if base + later * (self.count - 1) != classes or base < 2 or later < 1 < self.count:
            asked = f"{self.count} equal tasks" if self.base is None else f"{base} and {self.count - 1} equal tasks"
            raise Refusal(f"{classes} classes must split into {asked}, at least two of them in the first: impossible")
        if isinstance(self.memory, int) and 0 < self.memory < classes:
            raise Refusal(f"memory must hold an image of each of the {classes} classes, got {self.memory}")
        self._refuse_what_changes_nothing(later)
        return base, *[later] * (self.count - 1)

    def _refuse_what_changes_nothing(self, later: int) -> None:
        """Otherwise equal runs would have different ids."""
        if self.base == later:
            raise Refusal(f"base must differ from the {later} classes of each other task, or be left out")
        if self.choice != "herding" and not self.exemplars and self.memory in (0, "all"):
            raise Refusal(f"choice must be left out unless some images are kept and others not, got {self.choice}")
        moot = {"base": self.base, "memory": self.memory, "exemplars": self.exemplars, "alignment": self.alignment}
        if self.count == 1 and (idle := [name for name, value in moot.items() if value]):
            raise Refusal(f"{' and '.join(idle)} must be left out where all classes come in one task")

    def of_each(self, seen: int) -> int | None:
        """The number of images kept per class after this many classes; None means all."""
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
