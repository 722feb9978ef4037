"""The tables of papers next to ours: a list of them, the cells that they need, and whether they are reproduced."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

import msgspec
from scipy import stats

from kdbench.benchmark.comparison.published import Figure, IncrementalFigure, Paper, papers, stated
from kdbench.benchmark.leaderboard.report import Column, Report, plain, spread
from kdbench.benchmark.leaderboard.statistics import LEVEL
from kdbench.benchmark.leaderboard.task import Tasks
from kdbench.benchmark.plans.expectation import Expectation
from kdbench.benchmark.plans.grid import Grid, load
from kdbench.benchmark.plans.parameters import shown
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.benchmark.records.outline import Outline, outdated
from kdbench.benchmark.records.record import Brief
from kdbench.benchmark.words import columns
from kdbench.refusal import Refusal

CLOSE = 1.0  # points: a wider interval that includes zero says little
MOST = 10  # runs: a figure with an unknown number of runs is the mean of no more

Asked = tuple[str, str, str, str]  # data set, teacher, student, method: links figures and cells


@dataclass(frozen=True)
class Row:
    """One published figure next to one of our series. A figure has several rows if we ran several protocols."""

    dataset: str
    pair: str
    method: str
    theirs: float
    their_std: float | None
    their_runs: str
    epoch: str
    ours: float | None = None  # of the same epoch, best or last, as theirs if that is known
    our_std: float | None = None
    n: int = 0
    our_method: str = ""
    recipe: str = ""
    difference: float | None = None
    half: float | None = None  # of its interval
    verdict: str = ""
    table_of: str = ""
    source: str = ""


# -- the list of tables, and the cells that they need -----------------------------------------------------------------


def tables(records: dict[str, Outline]) -> list[dict[str, Any]]:
    expected = Expectation(records.values())
    return [_table(name, paper, records, expected) for name, paper in papers().items()]


def _table(name: str, paper: Paper, records: dict[str, Outline], expected: Expectation) -> dict[str, Any]:
    figures = paper.figures()
    cells = {c.id: c for c in _with_teachers(cells_of(name, paper))} if paper.grid else {}
    finished = {key for key in cells.keys() & records.keys() if not outdated(records[key], records)}
    missing = [expected.seconds(cell) for key, cell in cells.items() if key not in finished]
    known = [seconds for seconds in missing if seconds is not None]
    taught = {_pair(f) for f in figures if f.teacher} or {c.pair for c in cells.values() if c.teacher}
    return {
        "name": name,
        "dataset": ", ".join(sorted({f.dataset for f in figures} or {c.dataset for c in cells.values()})),
        "figures": len(figures),
        "pairs": len(taught),
        "methods": len({f.method for f in figures} or {c.method for c in cells.values()}),
        "grid": paper.grid or "none yet",
        "cells": len(cells),
        "finished": len(finished),
        "hours": round(sum(known) / 3600, 1) if len(known) == len(missing) and cells else None,
        "paper": paper.paper,
        "note": ". ".join(filter(None, [paper.other and f"No verdicts: {paper.other}", paper.note])),
    }


def tables_text(rows: list[dict[str, Any]]) -> str:
    known = [{k: v for k, v in row.items() if k not in ("paper", "note")} | {"hours": _hours(row)} for row in rows]
    papers = [f"{row['name']}: {row['paper']}. {row['note']}".strip() for row in rows]
    others = ["claims: statements that these papers make without a number, tested on the records."]
    others += ["incremental: published results for classes that arrive task by task, next to our records."]
    return "\n".join([columns(known), "", *papers, "", *others])


def _hours(row: dict[str, Any]) -> str:
    if not row["cells"]:
        return "–"
    return "unknown" if row["hours"] is None else f"{row['hours']:g}"


def cells_of(name: str, paper: Paper, seeds: int | None = None) -> Grid:
    """The cells of the paper's grid that its figures are about; all cells if no figure could be read."""
    if not paper.grid:
        raise Refusal(f"{name}: no grid ships for it yet, so nothing can be run")
    grid = _shipped(paper.grid)
    figured = {_asked(figure, paper) for figure in paper.figures()}
    cells = [cell for cell in grid.cells if not figured or _asked_of(cell) in figured]
    if seeds is not None:
        series = {(one := msgspec.structs.replace(cell, seed=0)).id: one for cell in cells}.values()
        cells = [msgspec.structs.replace(cell, seed=seed) for cell in series for seed in range(seeds)]
    return Grid(name, grid.about, tuple(cells))


@cache
def _shipped(name: str) -> Grid:
    return load(name)


def _with_teachers(grid: Grid) -> Iterable[Cell]:
    return [*grid.teachers.values(), *grid.cells]


def _pair(figure: Figure) -> str:
    return f"{figure.teacher} → {figure.student}" if figure.teacher else figure.student


def _asked(figure: Figure, paper: Paper) -> Asked:
    method = paper.ours(figure.method) or ""
    return figure.dataset, "" if method == "ce" else figure.teacher, figure.student, method


def _asked_of(cell: Cell) -> Asked:
    return cell.dataset, cell.teacher.student if cell.teacher else "", cell.student, cell.method


# -- theirs next to ours ----------------------------------------------------------------------------------------------


def compare(name: str, paper: Paper, records: Iterable[Brief]) -> list[Row]:
    ours: dict[Asked, dict[str, list[Brief]]] = {}
    records = sorted(records, key=lambda record: record.id)
    tasks = Tasks(records)
    for record in records:
        if record.cell.setting == "compression" and record.cell.method != IMPORT:
            cell = msgspec.structs.replace(record.cell, seed=0)
            series = f"{cell.id} {record.result.teacher_weights} {tasks.version(record)}"
            ours.setdefault(_asked_of(record.cell), {}).setdefault(series, []).append(record)
    protocol = {_asked_of(cell): cell for cell in _with_teachers(cells_of(name, paper))} if paper.grid else {}

    rows = []
    for figure in paper.figures():
        asked = _asked(figure, paper)
        found = list(ours.get(asked, {}).values())
        if found:
            told = [(_differs(series[0].cell, protocol.get(asked)) or paper.other, series) for series in found]
            rows += [_row(figure, series, other) for other, series in sorted(told, key=lambda one: one[0])]
        else:
            rows.append(_row(figure, [], "not run" if asked in protocol else "no cell of ours"))
    return sorted(rows, key=lambda row: (row.dataset, row.pair, row.method, row.epoch, row.source))


def _differs(cell: Cell, asked: Cell | None) -> str:
    """How a cell differs from the paper's; empty if only in seeds."""
    if asked is None:
        return "not a cell of the paper's grid"
    if _protocol(cell, asked) == _protocol(asked, asked):
        return ""
    if cell.recipe != asked.recipe:
        return cell.protocol
    if shown(cell.method, cell.params) != shown(asked.method, asked.params):
        return shown(cell.method, cell.params)
    if cell.world != asked.world:
        return f"trained by {cell.world} processes together"
    return "custom code" if cell.code != asked.code else "its teacher was trained differently"


def _protocol(cell: Cell, asked: Cell) -> str:
    """The cell's protocol. It ignores the teacher's seed, and takes an imported teacher for the paper's."""
    teacher = cell.teacher
    if teacher and asked.teacher:
        imported = teacher.method == IMPORT
        teacher = asked.teacher if imported else msgspec.structs.replace(teacher, seed=asked.teacher.seed)
    return msgspec.structs.replace(cell, seed=0, teacher=teacher).id


def _row(figure: Figure, series: list[Brief], other: str) -> Row:
    found = beside(figure, series, best=figure.statistic == "best epoch")
    if figure.statistic == "not stated" and beside(figure, series, best=True)["verdict"] != found["verdict"]:
        found["verdict"] = "cannot say: it depends on whether theirs is a best or a last epoch, which is not stated"
    if other:
        found |= {"half": None, "verdict": f"other protocol: {other}" if series else other}
    return Row(pair=_pair(figure), epoch=figure.statistic, **found)


def beside(figure: Figure | IncrementalFigure, series: Sequence[Brief], best: bool = False) -> dict[str, Any]:
    """The columns of every row: a figure, and our series if there is one, with its best or its last epochs."""
    said: dict[str, Any] = {
        "dataset": figure.dataset,
        "method": figure.method,
        "theirs": figure.top1,
        "their_std": figure.std,
        "their_runs": figure.runs,
        "verdict": "",
        "table_of": figure.table_of,
        "source": figure.source,
    }
    if not series:
        return said
    cell, ours = series[0].cell, [run.result.best_top1 if best else run.result.top1 for run in series]
    half, verdict = judged(figure.top1, figure.std, stated(figure.runs), ours)
    return said | {
        "ours": fmean(ours),
        "our_std": stdev(ours) if len(ours) > 1 else None,
        "n": len(ours),
        "our_method": shown(cell.method, cell.params),
        "recipe": cell.protocol,
        "difference": fmean(ours) - figure.top1,
        "half": half,
        "verdict": verdict,
    }


def judged(theirs: float, std: float | None, runs: int | None, ours: Sequence[float]) -> tuple[float | None, str]:
    """Half of the t interval of the difference of two means, and the verdict.

    If their number of runs is not stated, the interval assumes the smallest possible number, and the verdict must hold
    for any number up to ``MOST``: a wide interval hides differences too easily.
    """
    fewest = 2 if std else 1
    half, verdict = _judged(theirs, std, runs or fewest, ours)
    if not runs and any(_judged(theirs, std, more, ours)[1] != verdict for more in range(fewest + 1, MOST + 1)):
        verdict = "cannot say: it depends on how many runs theirs is the mean of, which is not stated"
    return half, verdict


def _judged(theirs: float, std: float | None, m: int, ours: Sequence[float]) -> tuple[float | None, str]:
    """The same for ``m`` runs of theirs.

    It uses the spread of both sides if both are known (Welch). If only one is known, it is used for both. A spread of 0
    counts as unknown: it was rounded away, or two runs agree by chance.
    """
    n = len(ours)
    own, std = (stdev(ours) if n > 1 else 0.0), (std if m > 1 else 0.0)
    if own and std:
        mine, yours = own**2 / n, std**2 / m
        freedom = (mine + yours) ** 2 / (mine**2 / (n - 1) + yours**2 / (m - 1))
        error = math.sqrt(mine + yours)
    elif own:
        freedom, error = n - 1, own * math.sqrt(1 / n + 1 / m)
    elif std:
        freedom, error = m - 1, std * math.sqrt(1 / n + 1 / m)
    else:
        return None, "cannot say: neither our spread nor theirs is known"
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    difference = fmean(ours) - theirs
    if abs(difference) > half + 1e-9:
        return half, "ours is higher" if difference > 0 else "ours is lower"
    return half, "reproduced" if half <= CLOSE else f"cannot say: the interval is wider than ± {CLOSE:g}"


# -- reports ----------------------------------------------------------------------------------------------------------

ABOUT = (
    "Top-1, theirs next to ours. A best epoch is compared with our best epoch, a last epoch with our last. ± in the "
    f"difference is half of its {LEVEL:.0%} t interval, from the spread of both sides. If one spread is unknown, the "
    f"other is used for both. *reproduced*: the interval includes zero and is no wider than ± {CLOSE:g}. If it is "
    f"not stated how many runs theirs is the mean of, a verdict holds for any number up to {MOST}. One row in twenty "
    "differs by chance. The effect of another training of the teacher is in no interval. Runs with another recipe, "
    "other parameters or a teacher that was trained differently have no verdict. An imported teacher is taken for the "
    "paper's, however good or poor it is."
)


def report(name: str, paper: Paper, records: Iterable[Brief]) -> Report:
    rows = [plain(row) for row in compare(name, paper, records)]
    counts = Counter(row["verdict"].partition(":")[0] for row in rows)
    close = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    remarks = [f"No verdicts: {paper.other}." if paper.other else "", paper.note, "" if rows else "We have no figures."]
    about = [paper.paper + ".", *filter(None, remarks), ABOUT if rows else ""]
    return Report(name, name, "\n\n".join(filter(None, about)), rows, COLUMNS, close)


COLUMNS: dict[str, Column] = {
    "pair": lambda row: row["pair"],
    "method": lambda row: row["method"],
    "theirs": lambda row: spread(row["theirs"], row["their_std"]),
    "of": lambda row: ", ".join(filter(None, [row["epoch"], row["their_runs"]])),
    "ours": lambda row: spread(row["ours"], row["our_std"]),
    "n": lambda row: str(row["n"]),
    "difference": lambda row: spread(row["difference"], row["half"], "+"),
    "verdict": lambda row: row["verdict"],
}
