"""A cell is one experiment: all that was asked for, and the id that says so."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache, cached_property, lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.training.recipe import Recipe
from kdbench.refusal import Refusal

IMPORT = "import"  # the method of a teacher that others have trained
SHORTEST = 4  # letters of a digest that may stand for a cell

Seed = Annotated[int, Meta(ge=0)]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Defaults are resolved before a cell is made: ``params`` holds every hyper-parameter, ``recipe`` every setting."""

    setting: Literal["compression", "incremental"] = "compression"
    incremental: Incremental | None = None
    dataset: str
    teacher: "Cell | None" = None  # a teacher is a cell too
    student: str
    method: str
    params: dict[str, Any] = {}
    recipe: Recipe | None = None  # none for a teacher that was imported
    protocol: str = ""  # the recipe's name, for people; what counts is what it says
    seed: Seed
    world: Annotated[int, Meta(ge=1)] = 1  # processes that train it together, a device each
    code: dict[str, str] = {}  # files from outside kdbench that this cell needs, and their digests

    def __post_init__(self) -> None:
        if (self.incremental is not None) != (self.setting == "incremental"):
            raise ValueError("a cell must say how its classes arrive in the incremental setting, and in no other")

    @cached_property
    def id(self) -> str:
        """A readable name and the digest of all that changes the numbers by intent."""
        digest = hashlib.blake2b(msgspec.json.encode(_meant(self), order="sorted"), digest_size=6).hexdigest()
        before = f"{self.incremental.count}-tasks" if self.incremental else ""
        words = [self.dataset, self.teacher.student if self.teacher else before, self.student, self.method]
        name = "-".join(_plain(word) for word in words if word)
        return f"{name[:120]}-s{self.seed}-{digest}"

    @property
    def training(self) -> Recipe:
        """The recipe of a cell that is trained here."""
        if self.recipe is None:
            raise Refusal(f"{self.id} must have a recipe to be trained by, got none: was it imported?")
        return self.recipe

    @property
    def files(self) -> dict[str, str]:
        """The files from outside that it is run with, its teacher's too, and their digests."""
        return self.code | (self.teacher.code if self.teacher else {})

    @property
    def pair(self) -> str:
        return f"{self.teacher.student} → {self.student}" if self.teacher else self.student


def called(name: str, ids: Iterable[str]) -> list[str]:
    """The one of these ids that this is, or those whose digest begins so, or that do themselves."""
    known = sorted(set(ids))
    if name in known:
        return [name]
    short = [one for one in known if len(name) >= SHORTEST and one.rpartition("-")[2].startswith(name)]
    return short or [one for one in known if one.startswith(name)]


@cache
def _plain(word: str) -> str:
    return re.sub(r"[^\w.+]+", "_", word, flags=re.ASCII)


def _meant(asked: msgspec.Struct) -> dict[str, Any]:
    """What was asked for, without names and defaults. A default must therefore never change, and that of a new field
    must say what was done before there was one: ids, and with them the records that are there, stay what they are."""
    return {
        name: _common(type(value), msgspec.json.encode(value)) if isinstance(value, msgspec.Struct) else value
        for name, usual in _usual(type(asked))
        if (value := getattr(asked, name)) != usual
    }


@lru_cache(maxsize=4096)
def _common(kind: type[msgspec.Struct], said: bytes) -> msgspec.Raw:
    """What is meant by a teacher, or a recipe, as JSON: thousands of cells have it in common."""
    return msgspec.Raw(msgspec.json.encode(_meant(msgspec.json.decode(said, type=kind)), order="sorted"))


@cache
def _usual(kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """Each field that may change the numbers, with its default: found out once, cells are many."""
    return [
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
        if field.name != "protocol"
    ]
