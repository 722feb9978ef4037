"""What a finished cell leaves behind: one JSON document that a person can read."""

from typing import Any

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.incremental.metrics import Arrival

FORMAT = 1


class Curves(msgspec.Struct, kw_only=True):
    """One value an epoch of the main phase; of tasks, one after the other, tested on the classes seen by then."""

    lr: list[float]
    terms: dict[str, list[float]]
    top1: list[float]
    test_loss: list[float]


class Result(msgspec.Struct, kw_only=True):
    """The numbers: the same bits whenever the same cell runs in the same environment."""

    top1: float  # after the last epoch, percent: the headline
    top5: float
    test_loss: float
    best_top1: float  # a diagnostic: it was found by looking at the test set
    best_epoch: int
    curves: Curves
    params: dict[str, Any]  # of the method, resolved
    weights: str  # digest of the deployed network's weights
    teacher_weights: str | None = None
    teacher_top1: float | None = None
    incremental: Arrival | None = None  # then top1 is the final accuracy, on all classes


def same_bits(one: Result, other: Result) -> bool:
    return msgspec.json.encode(one) == msgspec.json.encode(other)


class Cost(msgspec.Struct, kw_only=True):
    """What it took: differs from run to run."""

    seconds: float  # of training, all phases
    wall_seconds: float  # of the last sitting, with loading and evaluation
    images_per_second: float  # the median over the main phase's epochs
    epoch_seconds: list[float]
    peak_memory_mb: float  # of the device; on a CPU, of the process
    student_parameters: int
    method_parameters: int  # adapters and memory banks: thrown away after training
    deployed_parameters: int
    together: int = 1  # cells that were trained in turns: speed and memory are then not this cell's own
    remembered: float = 0.0  # share of the main phase's images whose answers were looked up; of the last sitting


class Environment(msgspec.Struct, kw_only=True):
    """Where it ran; ``key`` is the digest of all that may change the last bits."""

    key: str
    arithmetic: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    git: str
    finished: str  # UTC


class Record(msgspec.Struct, kw_only=True):
    """Fields that a newer version adds have defaults, so that old records still read."""

    format: int = FORMAT
    id: str
    cell: Cell
    result: Result
    cost: Cost
    environment: Environment
    data: str = ""  # digests of the images and labels that it was trained with and tested on
    origin: str = ""  # the file that an imported teacher came from


class Failure(msgspec.Struct, kw_only=True):
    """Why a cell has no record: never a result."""

    id: str
    cell: Cell
    error: str  # one line
    traceback: str
    environment: Environment | None = None
    failed: str  # UTC


# -- what plans and tables read of a record, of a hundred thousand at once: all but what is long ---------------------


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
