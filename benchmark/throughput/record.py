"""What a measurement of a method's speed leaves behind: one JSON file, under the key of the environment it was made in.

Speeds of two environments have nothing to say to one another; who compares, compares inside one ``environment.key``.
"""

from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.legibility import pretty
from kdbench.benchmark.experiments.record import Environment
from kdbench.benchmark.whole import write

FORMAT = 2


class Pace(msgspec.Struct, kw_only=True):
    """How fast the loop goes in a steady state: the median of several windows of steps."""

    cost: float  # a step's time over that of the labels' alone, their windows taken in turn
    images_per_second: float
    step_ms: float
    peak_memory_mb: float  # of the device; on a CPU, of the process
    tflops: float  # the networks' work alone: what a method adds to it is overhead
    windows_ms: list[float] = []  # a step, in each of the windows


class Version(msgspec.Struct):
    format: int = 0


class Throughput(msgspec.Struct, kw_only=True):
    """One method on one pair. What an older format says is not read but measured again: that takes minutes."""

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
    cold: Pace | None = None  # its answers are remembered, and none of them is known yet
    remembered: Pace | None = None  # all of them are known; none where they cannot be remembered
    initial: float = 0.0  # what phases before the main one add to the cost of each of its steps, shared out over them
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
        """The cost of a run of the recipe's E epochs that begins with an empty memory, without ``initial``.

        An image is seen once an epoch from one of V views, each as likely as any other: in all,
        u = V (1 - (1 - 1/V)^E) of them were asked at the cold pace, and E - u were known. A step then costs
        (u cold + (E - u) remembered) / E. Those who come later with the same seed find all: ``remembered``.
        """
        if self.cold is None or self.remembered is None:
            return None
        asked = self.views * (1 - (1 - 1 / self.views) ** self.epochs)
        return (asked * self.cold.cost + (self.epochs - asked) * self.remembered.cost) / self.epochs


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
            content = file.read_bytes()
            if (version := msgspec.json.decode(content, type=Version).format) != FORMAT:
                raise ValueError(f"its format must be {FORMAT}, got {version}: measure it again")
            record = msgspec.json.decode(content, type=Throughput)
            if (record.environment.key, record.id) != (file.parent.name, file.stem):
                raise ValueError(f"it is of {record.id} in the environment {record.environment.key}")
            found.append(record)
        except (ValueError, RecursionError, OSError) as error:  # ValueError: msgspec's, and those of text
            if troubles is not None:
                troubles.append(f"{file} is no throughput record: {error}")
    return found
