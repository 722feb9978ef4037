"""A cell is one experiment: its full specification, and an id that is derived from it."""

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

IMPORT = "import"  # the method of an imported teacher
SHORTEST = 4  # the fewest characters of a digest that can name a cell

Seed = Annotated[int, Meta(ge=0)]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One experiment. Its defaults are resolved: ``params`` has every hyper-parameter, ``recipe`` every setting."""

    setting: Literal["compression", "incremental"] = "compression"
    incremental: Incremental | None = None
    dataset: str
    teacher: "Cell | None" = None  # a teacher is a cell too
    student: str
    method: str
    params: dict[str, Any] = {}
    recipe: Recipe | None = None  # None for an imported teacher
    protocol: str = ""  # the recipe's name, for people; only the settings count
    seed: Seed
    world: Annotated[int, Meta(ge=1)] = 1  # processes that train it together, one device each
    code: dict[str, str] = {}  # files from outside kdbench that this cell needs, and their digests

    def __post_init__(self) -> None:
        if (self.incremental is not None) != (self.setting == "incremental"):
            raise ValueError("a cell must have 'incremental' in the incremental setting, and in no other")

    @cached_property
    def id(self) -> str:
        """A readable name and a digest of everything that changes the numbers by intent."""
        digest = hashlib.blake2b(msgspec.json.encode(_meant(self), order="sorted"), digest_size=6).hexdigest()
        before = f"{self.incremental.count}-tasks" if self.incremental else ""
        words = [self.dataset, self.teacher.student if self.teacher else before, self.student, self.method]
        name = "-".join(_plain(word) for word in words if word)
        return f"{name[:120]}-s{self.seed}-{digest}"

    @property
    def training(self) -> Recipe:
        """The recipe of a cell that is trained here."""
        if self.recipe is None:
            raise Refusal(f"{self.id} must have a recipe to be trained, got none: was it imported?")
        return self.recipe

    @property
    def files(self) -> dict[str, str]:
        """The files from outside kdbench that the cell and its teacher need, with their digests."""
        return self.code | (self.teacher.code if self.teacher else {})

    @property
    def pair(self) -> str:
        return f"{self.teacher.student} → {self.student}" if self.teacher else self.student

    @property
    def place(self) -> str:
        """The pair, and how classes arrive: the runs of a data set and recipe that tables put side by side."""
        return self.pair + (f", {self.incremental}" if self.incremental else "")


def called(name: str, ids: Iterable[str]) -> list[str]:
    """The ids that a name refers to: the id itself, else those whose digest starts with it, else those that do."""
    known = sorted(set(ids))
    if name in known:
        return [name]
    short = [one for one in known if len(name) >= SHORTEST and one.rpartition("-")[2].startswith(name)]
    return short or [one for one in known if one.startswith(name)]


@cache
def _plain(word: str) -> str:
    return re.sub(r"[^\w.+]+", "_", word, flags=re.ASCII)


def _meant(asked: msgspec.Struct) -> dict[str, Any]:
    """The specification, without names and default values. A default must therefore never change, and the default of a
    new field must describe what was done before the field existed. Otherwise ids change and lose their records."""
    return {
        name: _common(type(value), msgspec.json.encode(value)) if isinstance(value, msgspec.Struct) else value
        for name, usual in _usual(type(asked))
        if (value := getattr(asked, name)) != usual
    }


@lru_cache(maxsize=4096)
def _common(kind: type[msgspec.Struct], said: bytes) -> msgspec.Raw:
    """The specification of a teacher or a recipe, as JSON. Cached, since thousands of cells share it."""
    return msgspec.Raw(msgspec.json.encode(_meant(msgspec.json.decode(said, type=kind)), order="sorted"))


@cache
def _usual(kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """Each field that may change the numbers, with its default. Cached, since there are many cells."""
    return [
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
        if field.name != "protocol"
    ]
