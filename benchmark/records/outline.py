"""The part of a record that a plan needs. Outlines of a pack are cached until the pack changes: a plan then reads a few
bytes of each record instead of all curves."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Brief, BriefEnvironment, Environment, Record

Likes = list[tuple[str, ...]]


class Outline(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outline of a valid record."""

    id: str
    dataset: str
    pair: str
    method: str
    world: int
    seconds: float
    epochs: int  # 0 for an imported teacher
    tasks: str  # how classes arrived in the incremental setting; else empty
    machine: str  # that it was timed on
    weights: str
    teacher: str  # its teacher's id
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
    """Whether its teacher has been retrained since, and its weights have changed."""
    teacher = records.get(student.teacher)
    return teacher is not None and student.teacher_weights not in (None, teacher.weights)


def _machine(where: BriefEnvironment | Environment) -> str:
    """A GPU's name; or a processor's name with the instructions that torch found, since names are coarse."""
    device, cpu = where.arithmetic.get("device", ""), where.machine.get("cpu", "")
    return str(device if "gpu" in where.machine or not cpu else f"{cpu} ({device})")


class Kept(msgspec.Struct, array_like=True):
    """The cached outlines of a pack, and the state of its file. Packs are never modified, only replaced."""

    pack: tuple[int, ...]
    outlines: list[Outline]


def likes(of: Cell | Outline) -> Likes:
    """Keys of similar cells, by which a cell's time is estimated; the most similar first."""
    tasks = of.tasks if isinstance(of, Outline) else str(of.incremental or "")
    where = (of.dataset, of.pair, str(of.world), tasks)
    return [(*where, of.method), where]


def state(pack: Path) -> tuple[int, ...]:
    """The state of a file, which changes whenever the file does."""
    seen = pack.stat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def kept(file: Path, pack: tuple[int, ...]) -> list[Outline] | None:
    """The cached outlines of this pack; None if they are missing, damaged or those of another file."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        found = msgspec.msgpack.decode(file.read_bytes(), type=Kept)
        if found.pack == pack:
            return found.outlines
    return None
