"""Published results as data: figures with their source, their papers, and the statements of papers."""

import csv
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

import kdbench
from kdbench.benchmark.document import read
from kdbench.refusal import Refusal, nearest

FOLDER = Path(kdbench.__file__).parent / "published"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One published top-1, from a table or a log."""

    dataset: str
    teacher: str
    student: str
    method: str
    top1: float
    std: float | None
    statistic: Literal["last epoch", "best epoch", "not stated"]
    runs: str  # as stated; empty if it was not
    table_of: str
    source: str


class IncrementalFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One published accuracy over all classes after the last task."""

    dataset: str
    tasks: int
    memory: int
    network: str
    method: str
    top1: float = msgspec.field(name="final_accuracy")
    std: float | None
    runs: str
    table_of: str
    source: str


def stated(runs: str) -> int | None:
    """The number of runs that a figure is the mean of, if it was stated."""
    said = runs.removeprefix("mean of ").split(" ")[0]
    return int(said) if said.isdigit() else None


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A paper, with or without figures, and the grid that ships its protocol, if there is one."""

    paper: str
    table_of: str = ""
    dataset: str = ""
    grid: str = ""
    other: str = ""  # how our cells differ from theirs
    methods: dict[str, str] = {}
    note: str = ""

    def figures(self) -> list[Figure]:
        return [f for f in figures() if f.table_of == self.table_of and f.dataset == self.dataset]

    def ours(self, method: str) -> str | None:
        """Our name for one of its methods; None if our grid does not run it as the paper did."""
        return (self.methods or _papers().methods).get(method)


class _Papers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    methods: dict[str, str]
    papers: dict[str, Paper]


@cache
def figures() -> tuple[Figure, ...]:
    return tuple(msgspec.convert(_rows("published.csv"), list[Figure], strict=False))


@cache
def incremental() -> tuple[IncrementalFigure, ...]:
    return tuple(msgspec.convert(_rows("incremental.csv"), list[IncrementalFigure], strict=False))


def papers() -> dict[str, Paper]:
    return _papers().papers


def paper(name: str, *others: str) -> Paper:
    """The paper of this name; ``others`` are further names that the user may have meant."""
    if name not in papers():
        raise Refusal(f"unknown table '{name}'{nearest(name, [*papers(), *others])}")
    return papers()[name]


@cache
def _papers() -> _Papers:
    return read(FOLDER / "papers.yaml").convert(_Papers)


def _rows(name: str) -> list[dict[str, Any]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as stream:
        return [row | {"std": row["std"] or None} for row in csv.DictReader(stream)]
