"""The record of a finished cell: one JSON document that a person can read."""

from typing import Any

import msgspec

from kdbench.benchmark.incremental.metrics import Arrival
from kdbench.benchmark.records.cell import Cell

FORMAT = 1


class Curves(msgspec.Struct, kw_only=True):
    """One value per epoch of the main phase. Tasks follow one another, each tested on the classes seen so far."""

    lr: list[float]
    terms: dict[str, list[float]]
    top1: list[float]
    test_loss: list[float]


class Result(msgspec.Struct, kw_only=True):
    """The results: the same bits whenever the same cell runs in the same environment."""

    top1: float  # after the last epoch, percent: the main result
    top5: float
    test_loss: float
    best_top1: float  # only a diagnostic: it is selected on the test set
    best_epoch: int
    curves: Curves
    params: dict[str, Any]  # of the method, resolved
    weights: str  # digest of the deployed network's weights
    teacher_weights: str | None = None
    teacher_top1: float | None = None
    incremental: Arrival | None = None  # in this setting, top1 is the final accuracy on all classes


def same_bits(one: Result, other: Result) -> bool:
    return msgspec.json.encode(one) == msgspec.json.encode(other)


class Cost(msgspec.Struct, kw_only=True):
    """Time and memory, which differ from run to run."""

    seconds: float  # of training, all phases
    wall_seconds: float  # since the last start or resume, with loading and evaluation
    images_per_second: float  # the median over the main phase's epochs
    epoch_seconds: list[float]
    peak_memory_mb: float  # of the device; on a CPU, of the process
    student_parameters: int
    method_parameters: int  # adapters and memory banks: discarded after training
    deployed_parameters: int
    together: int = 1  # cells that took turns in a process; if several, speed and memory are not this cell's own
    remembered: float = 0.0  # share of the main phase's images answered from memory since the last start or resume


class Environment(msgspec.Struct, kw_only=True):
    """Where it ran. ``key`` is a digest of everything that may change the last bits."""

    key: str
    arithmetic: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    git: str
    finished: str  # UTC


class Record(msgspec.Struct, kw_only=True):
    """A finished cell's record. Fields that a newer version adds have defaults: old records can still be read."""

    format: int = FORMAT
    id: str
    cell: Cell
    result: Result
    cost: Cost
    environment: Environment
    data: str = ""  # digests of the images and labels of training and test
    origin: str = ""  # the file that an imported teacher came from


class Failure(msgspec.Struct, kw_only=True):
    """Why a cell has no record. It is never a result."""

    id: str
    cell: Cell
    error: str  # one line
    traceback: str
    environment: Environment | None = None
    failed: str  # UTC


# -- the short parts of a record: what plans and tables read, of a hundred thousand records at once ------------------


class BriefResult(msgspec.Struct, kw_only=True):
    top1: float
    best_top1: float
    weights: str
    teacher_weights: str | None = None
    teacher_top1: float | None = None
    incremental: dict[str, Any] | None = None


class BriefCost(msgspec.Struct, kw_only=True):
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    method_parameters: int
    deployed_parameters: int
    together: int = 1


class BriefEnvironment(msgspec.Struct, kw_only=True):
    key: str
    arithmetic: dict[str, Any] = {}
    machine: dict[str, Any] = {}


class Brief(msgspec.Struct, kw_only=True):
    """A record without its curves."""

    format: int = FORMAT
    id: str
    cell: Cell
    result: BriefResult
    cost: BriefCost
    environment: BriefEnvironment
    data: str = ""
