"""Throughput records: one JSON file for each measured speed, under the key of its environment.

Compare speeds only within one ``environment.key``.
"""

from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Environment
from kdbench.benchmark.whole import write

FORMAT = 2


class Pace(msgspec.Struct, kw_only=True):
    """The speed of the loop in a steady state: the median of several windows of steps."""

    cost: float  # time of a step relative to one on labels only, with windows in turn
    images_per_second: float
    step_ms: float
    peak_memory_mb: float  # of the device; on a CPU, of the process
    tflops: float  # of the networks only: the method's own operations count as overhead
    windows_ms: list[float] = []  # per step, in each window


class Version(msgspec.Struct):
    format: int = 0


class Throughput(msgspec.Struct, kw_only=True):
    """One method on one pair. Records of an older format are measured again, which takes minutes."""

    format: int = FORMAT
    id: str  # of the cell that was measured, see ``measured``
    dataset: str
    teacher: str  # the network's name; empty for a method without a teacher
    student: str
    method: str
    params: dict[str, Any]  # as in the grid's cells
    recipe: str  # the protocol's name
    epochs: int
    batch: int
    precision: str
    environment: Environment
    live: Pace  # the teacher runs at every step
    cold: Pace | None = None  # with a memory of its answers, still empty
    remembered: Pace | None = None  # with all answers in the memory; None if they cannot be stored
    initial: float = 0.0  # cost of the phases before the main one, spread over its steps
    views: int = 1  # of an image, and so answers to store for it
    peak_tflops: float  # of the device, measured in this precision
    method_parameters: int  # adapters and memory banks, discarded after training
    student_parameters: int
    deployed_parameters: int
    teacher_macs: int  # for one image
    student_macs: int

    @property
    def pair(self) -> str:
        """The pair, as in cells."""
        return f"{self.teacher} → {self.student}" if self.teacher else self.student

    def amortised(self) -> float | None:
        """The cost of a run of the recipe's E epochs that starts with an empty memory, without ``initial``.

        Each epoch shows an image in one of V equally likely views. Of its E answers, u = V (1 - (1 - 1/V)^E) are
        computed at the cold pace, and E - u are in the memory. A step costs (u cold + (E - u) remembered) / E. Later
        runs with the same seed find all answers: ``remembered``.
        """
        if self.cold is None or self.remembered is None:
            return None
        asked = self.views * (1 - (1 - 1 / self.views) ** self.epochs)
        return (asked * self.cold.cost + (self.epochs - asked) * self.remembered.cost) / self.epochs


def measured(cell: Cell) -> Cell:
    """The cell that is measured for this one: seeds and the training of the teacher do not change speed."""
    teacher = cell.teacher and Cell(dataset=cell.dataset, student=cell.teacher.student, method="ce", seed=0)
    return msgspec.structs.replace(cell, teacher=teacher, seed=0)


def folder(results: Path) -> Path:
    return results / "throughput"


def keep(record: Throughput, results: Path) -> None:
    write(folder(results) / record.environment.key / f"{record.id}.json", pretty(record))


def records(results: Path, troubles: list[str] | None = None) -> list[Throughput]:
    """All records in the order of their files. Invalid files are left out, with a sentence in ``troubles``."""
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
        except (ValueError, RecursionError, OSError) as error:  # ValueError: from msgspec and from decoding text
            if troubles is not None:
                troubles.append(f"{file} is no throughput record: {error}")
    return found
