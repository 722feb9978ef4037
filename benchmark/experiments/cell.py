"""A cell is one experiment: all that was asked for, and the id that says so."""

import hashlib
import re
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kdbench.benchmark.training.recipe import Count, Recipe

Seed = Annotated[int, Meta(ge=0)]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Defaults are resolved before a cell is made: ``params`` holds every hyper-parameter, ``recipe`` every setting."""

    setting: Literal["compression"] = "compression"
    dataset: str
    teacher: "Cell | None" = None  # a teacher is a cell too
    student: str
    method: str
    params: dict[str, Any] = {}
    recipe: Recipe
    protocol: str = ""  # the recipe's name, for people; what counts is what it says
    seed: Seed
    world: Count = 1  # processes that share a batch
    code: dict[str, str] = {}  # files from outside kdbench that this cell needs, and their digests

    @cached_property
    def id(self) -> str:
        """A readable name and the digest of all that changes the numbers by intent."""
        digest = hashlib.blake2b(msgspec.json.encode(_meant(self), order="sorted"), digest_size=6).hexdigest()
        words = [self.dataset, self.teacher.student if self.teacher else "", self.student, self.method]
        name = "-".join(re.sub(r"[^\w.+]+", "_", word, flags=re.ASCII) for word in words if word)
        return f"{name[:120]}-s{self.seed}-{digest}"

    @property
    def pair(self) -> str:
        return f"{self.teacher.student} → {self.student}" if self.teacher else self.student

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What decides whether a cell can work: all but its seed and its recipe."""
        params = msgspec.json.encode(self.params, order="sorted").decode()
        return self.dataset, self.teacher.student if self.teacher else "", self.student, self.method, params


def _meant(cell: Cell) -> dict[str, Any]:
    meant = msgspec.to_builtins(cell)
    inner: dict[str, Any] | None = meant
    while inner is not None:
        del inner["protocol"]
        inner = inner["teacher"]
    return dict(meant)
