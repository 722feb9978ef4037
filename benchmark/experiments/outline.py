"""What a plan must know of a record. Of a pack it is kept, until the pack changes: a plan reads a few bytes of each
record then, where it would have read all curves."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Brief, BriefEnvironment, Environment, Record

Likes = list[tuple[str, ...]]


class Outline(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of a record that was believed."""

    id: str
    dataset: str
    pair: str
    method: str
    world: int
    seconds: float
    epochs: int  # none of a teacher that was imported
    tasks: str  # how classes arrived, where they did not all come at once
    machine: str  # what it was timed on
    weights: str
    teacher: str  # the id of whom it learned from
    teacher_weights: str | None

    @classmethod
    def of(cls, record: Brief | Record) -> "Outline":
        cell = record.cell
        epochs = cell.recipe.epochs if cell.recipe else 0
        tasks = str(cell.incremental or "")
        where, seconds, result = _machine(record.environment), record.cost.seconds, record.result
        return cls(
            record.id, cell.dataset, cell.pair, cell.method, cell.world, seconds, epochs, tasks, where,
            result.weights, cell.teacher.id if cell.teacher else "", result.teacher_weights,
        )  # fmt: skip


def outdated(student: Outline, records: Mapping[str, Outline]) -> bool:
    """Whether it learned from other weights than its teacher has by now."""
    teacher = records.get(student.teacher)
    return teacher is not None and student.teacher_weights not in (None, teacher.weights)


def _machine(where: BriefEnvironment | Environment) -> str:
    """A GPU by its name; a processor with the instructions that torch found in it, for names are coarse."""
    device, cpu = where.arithmetic.get("device", ""), where.machine.get("cpu", "")
    return str(device if "gpu" in where.machine or not cpu else f"{cpu} ({device})")


class Kept(msgspec.Struct, array_like=True):
    """The outlines of a pack, and which file it was: packs are never written to, only replaced."""

    pack: tuple[int, ...]
    outlines: list[Outline]


def likes(of: Cell | Outline) -> Likes:
    """What a cell's time may be judged by, the nearest first."""
    tasks = of.tasks if isinstance(of, Outline) else str(of.incremental or "")
    where = (of.dataset, of.pair, str(of.world), tasks)
    return [(*where, of.method), where]


def state(pack: Path) -> tuple[int, ...]:
    """Changes whenever the file does."""
    seen = pack.stat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def kept(file: Path, pack: tuple[int, ...]) -> list[Outline] | None:
    """What was kept of just this pack; nothing where it is of another, damaged or not there."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        found = msgspec.msgpack.decode(file.read_bytes(), type=Kept)
        if found.pack == pack:
            return found.outlines
    return None
