"""What a measurement of a method's speed leaves behind: one JSON file, under the key of the environment it was made in.

Speeds of two environments have nothing to say to one another; who compares, compares inside one ``environment.key``.
"""

from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Environment
from kdbench.benchmark.experiments.store import pretty, write

FORMAT = 1


class Pace(msgspec.Struct, kw_only=True):
    """How fast the loop goes in a steady state: the median of several windows of steps."""

    images_per_second: float
    step_ms: float
    peak_memory_mb: float  # of the device; on a CPU, of the process
    tflops: float  # the networks' work alone: what a method adds to it is overhead
    windows_ms: list[float] = []  # a step, in each of the windows


class Throughput(msgspec.Struct, kw_only=True):
    """One method on one pair. Fields that a newer version adds have defaults, so that old records still read; but the
    cost, which was not always timed, nobody can know afterwards: a record without it must be measured anew."""

    format: int = FORMAT
    id: str  # of the cell that was measured, see ``measured``
    dataset: str
    teacher: str  # the network's name; empty for a method that has no teacher
    student: str
    method: str
    params: dict[str, Any]  # as the grid's cells have them
    recipe: str  # the protocol's name
    epochs: int
    batch: int
    precision: str
    environment: Environment
    live: Pace  # the teacher is asked anew at every step
    cost: float  # such a step's time over that of the labels' alone, their windows taken in turn
    cold: Pace | None = None  # its answers are remembered, and none of them is known yet
    remembered: Pace | None = None  # all of them are known; none where they cannot be remembered
    views: int = 1  # in which an image may be seen: as many answers are to be remembered
    peak_tflops: float  # the device's own, measured, in this precision
    method_parameters: int  # adapters and memory banks: thrown away after training
    student_parameters: int
    deployed_parameters: int
    teacher_macs: int  # of one image
    student_macs: int

    @property
    def pair(self) -> str:
        """As cells have it."""
        return f"{self.teacher} → {self.student}" if self.teacher else self.student

    def amortised(self) -> float | None:
        """Images a second over a run of the recipe's E epochs that begins with an empty memory.

        An image is seen once an epoch from one of V views, each as likely as any other: in all,
        u = V (1 - (1 - 1/V)^E) of them were asked at the cold pace, and E - u were known. An image then takes
        (u / cold + (E - u) / remembered) / E seconds. Those who come later with the same seed find all: ``remembered``.
        """
        if self.cold is None or self.remembered is None:
            return None
        asked = self.views * (1 - (1 - 1 / self.views) ** self.epochs)
        seconds = asked / self.cold.images_per_second + (self.epochs - asked) / self.remembered.images_per_second
        return self.epochs / seconds


def measured(cell: Cell) -> Cell:
    """The cell that is measured for this one and its like: no seed changes speed, nor how its teacher was trained."""
    teacher = cell.teacher and Cell(dataset=cell.dataset, student=cell.teacher.student, method="ce", seed=0)
    return msgspec.structs.replace(cell, teacher=teacher, seed=0)


def folder(results: Path) -> Path:
    return results / "throughput"


def keep(record: Throughput, results: Path) -> None:
    write(folder(results) / record.environment.key / f"{record.id}.json", pretty(record))


def records(results: Path, troubles: list[str] | None = None) -> list[Throughput]:
    """All that was measured, in the order of its files; what cannot be believed is left out, with a sentence to
    ``troubles``."""
    found = []
    for file in sorted(folder(results).glob("*/*.json")):
        try:
            record = msgspec.json.decode(file.read_bytes(), type=Throughput)
            if (record.environment.key, record.id) != (file.parent.name, file.stem):
                raise ValueError(f"it is of {record.id} in the environment {record.environment.key}")
            found.append(record)
        except (ValueError, RecursionError, OSError) as error:  # ValueError: msgspec's, and those of text
            if troubles is not None:
                troubles.append(f"{file} is no throughput record, and must be measured anew: {error}")
    return found
