"""Published results for classes that arrive task by task, next to our records of the same sequence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kdbench.benchmark.comparison.published import IncrementalFigure, incremental
from kdbench.benchmark.comparison.reproduce import beside
from kdbench.benchmark.data import source
from kdbench.benchmark.leaderboard.report import Column, Report, plain, spread
from kdbench.benchmark.leaderboard.task import Tasks
from kdbench.benchmark.plans.parameters import complete, shown
from kdbench.benchmark.records.record import Brief

PROTOCOL = "incremental-250"  # the recipe of DFCIL's table
OURS: dict[str, tuple[str, dict[str, Any]]] = {  # the other methods are not implemented
    "Base": ("ce", {}),
    "Naive Rehearsal": ("ce", {}),
    "UB": ("ce", {}),  # all classes in one task
    "LwF": ("kd", {"temperature": 2, "weight": 0.25, "ce_weight": 1}),  # T = 2, weight 1, no T²
}

ABOUT = (
    "Final accuracy on all classes, theirs next to ours, with the same number of equal tasks and of images kept in the "
    "end. The difference, half of its interval and the verdict are as in the tables of 'kdbench reproduce NAME'. Runs "
    "with another recipe, loss or choice of images, or with aligned weights, have no verdict. The grid is "
    "incremental-cifar100."
)


@dataclass(frozen=True)
class Row:
    dataset: str
    network: str
    tasks: int
    memory: int
    method: str
    theirs: float
    their_std: float | None
    their_runs: str
    ours: float | None = None
    our_std: float | None = None
    n: int = 0
    our_method: str = ""
    sequence: str = ""
    recipe: str = ""
    difference: float | None = None
    half: float | None = None
    verdict: str = ""
    table_of: str = ""
    source: str = ""


def report(records: Iterable[Brief]) -> Report:
    arrived = [record for record in sorted(records, key=lambda r: r.id) if record.cell.setting != "compression"]
    tasks = Tasks(arrived)
    rows = [plain(row) for figure in incremental() for row in _rows(figure, arrived, tasks)]
    return Report("incremental", "Classes that arrive task by task", ABOUT, rows, COLUMNS)


def _rows(figure: IncrementalFigure, arrived: list[Brief], tasks: Tasks) -> list[Row]:
    """One row for each of our series, or one without ours if there is none."""
    series: dict[tuple[str, str, str], list[Brief]] = {}
    for record in arrived:
        if _alike(figure, record):
            cell = record.cell
            recipe = tasks.recipe(cell, tasks.version(record))
            key = shown(cell.method, cell.params), str(record.cell.incremental), recipe
            series.setdefault(key, []).append(record)
    about: dict[str, Any] = {"network": figure.network, "tasks": figure.tasks, "memory": figure.memory}
    rows = []
    for (_, sequence, _), runs in series.items():
        other = {} if _same(figure, runs[0]) else {"half": None, "verdict": "other protocol"}
        rows.append(Row(sequence=sequence, **about | beside(figure, runs) | other))
    nothing = {"verdict": "not run" if figure.method in OURS else "no cell of ours"}
    return rows or [Row(**about | beside(figure, []) | nothing)]


def _alike(figure: IncrementalFigure, record: Brief) -> bool:
    """Whether a record has the same method and sequence of classes, and as many images kept in the end."""
    cell, arrival, joint = record.cell, record.cell.incremental, figure.method == "UB"
    assert arrival
    tasks, (method, _) = 1 if joint else figure.tasks, OURS.get(figure.method, ("", {}))
    classes = source(figure.dataset).classes
    first, kept = arrival.base or classes // arrival.count, arrival.memory or arrival.exemplars * classes
    theirs = figure.dataset, figure.network, method, tasks, classes // tasks, figure.memory
    return theirs == (cell.dataset, cell.student, cell.method, arrival.count, first, kept)


def _same(figure: IncrementalFigure, record: Brief) -> bool:
    """Whether a record follows the table's protocol.

    It has one head for all classes from the start, not aligned after training, and plain cross-entropy. Images are kept
    at random, a fixed number in all from the first task on.
    """
    cell, arrival, (method, params) = record.cell, record.cell.incremental, OURS[figure.method]
    assert arrival
    plain_head = arrival.classifier == "full" and arrival.task_loss == "cross_entropy" and not arrival.alignment
    kept = not arrival.exemplars and (not arrival.memory or arrival.choice == "random")
    asked = shown(method, complete(method, params)), PROTOCOL
    return (arrival.count == 1 or plain_head) and kept and asked == (shown(cell.method, cell.params), cell.protocol)


COLUMNS: dict[str, Column] = {
    "network": lambda row: row["network"],
    "tasks": lambda row: str(row["tasks"]),
    "memory": lambda row: str(row["memory"]),
    "method": lambda row: row["method"],
    "theirs": lambda row: spread(row["theirs"], row["their_std"]),
    "runs": lambda row: row["their_runs"] or "not stated",
    "ours": lambda row: spread(row["ours"], row["our_std"]),
    "by": lambda row: f"{row['our_method']}, {row['sequence']}, {row['recipe']}" if row["n"] else "–",
    "n": lambda row: str(row["n"]),
    "difference": lambda row: spread(row["difference"], row["half"], "+"),
    "verdict": lambda row: row["verdict"],
}
