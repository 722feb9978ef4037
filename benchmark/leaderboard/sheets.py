"""The board's tables as the page's script shows them: values, and how each column is to be shown."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from kdbench.benchmark.leaderboard.formats import places
from kdbench.benchmark.leaderboard.frame import SECTION, SERIES
from kdbench.benchmark.leaderboard.table import FIELD, Board, too_few
from kdbench.benchmark.leaderboard.teachers import teachers

HEADS = {"dataset": "Data set", "pair": "Pair", "recipe": "Recipe", "setting": "Setting"}  # of a group of rows


@dataclass(frozen=True)
class Column:
    name: str
    kind: str  # one of those that page.js knows to show
    keys: tuple[str, ...]  # the table's columns that it is made of
    about: str = ""


METHOD = [Column("method", "text", ("method",)), Column("source", "source", ("source",), "of the knowledge")]
GAINS = [
    Column("over ce", "surely", ("over_ce", "over_ce_half", "over_ce_p"), "on the same seeds, points of top-1"),
    Column("over kd", "surely", ("over_kd", "over_kd_half", "over_kd_p"), "on the same seeds, points of top-1"),
]
TIME = Column("time × ce", "percent", ("relative_cost",), "a training's time over ce's")
OVER_PAIRS = [
    *METHOD,
    Column("pairs", "count", ("pairs",)),
    *GAINS,
    Column("p (ce)", "p", ("over_ce_p",), "exact test over pairs, Holm-corrected over both columns"),
    Column("p (kd)", "p", ("over_kd_p",), "exact test over pairs, Holm-corrected over both columns"),
    Column("mean rank", "percent", ("rank",), "by top-1 on each pair; 1 is the best"),
    TIME,
]
ON_A_PAIR = [
    *METHOD,
    Column("n", "count", ("n",), "seeds"),
    Column("top-1, %", "spread", ("top1", "std"), "after the last epoch, mean ± standard deviation over seeds"),
    *GAINS,
    Column("best epoch, %", "percent", ("best",), "a diagnostic, found by looking at the test set"),
    TIME,
]
TASK_BY_TASK = [
    *METHOD,
    Column("n", "count", ("n",), "seeds"),
    Column("average, %", "percent", ("average",), "top-1 over the classes so far, mean over tasks"),
    Column("final, %", "spread", ("top1", "std"), "top-1 after the last task, mean ± standard deviation over seeds"),
    *GAINS,
    Column("forgetting", "percent", ("forgetting",), "points lost on older tasks"),
    Column("backward transfer", "gain", ("backward",), "what later tasks did to older ones, points"),
]
COSTS = [
    *METHOD,
    Column("images/s", "count", ("images_per_second",), "in training"),
    TIME,
    Column("remembered", "percent", ("remembered_cost",), "time × ce when the teacher's answers are known"),
    Column("training, s", "count", ("seconds",), "of one seed"),
    Column("memory, MB", "count", ("peak_memory_mb",), "peak, in training"),
    Column("parameters", "count", ("deployed_parameters",), "of the network that is used in the end"),
    Column("discarded", "count", ("discarded_parameters",), "parameters of the method, thrown away after training"),
]
OF_A_SEED = [
    Column("seed", "count", ("seed",)),
    Column("top-1, %", "percent", ("top1",)),
    Column("over ce", "gain", ("over ce",)),
    Column("best epoch, %", "percent", ("best",)),
    Column("images/s", "count", ("speed",)),
    Column("environment", "text", ("environment",)),
    Column("teacher", "text", ("teacher",)),
]


DIGITS = {"count": 0, "percent": 2, "spread": 2, "gain": 2, "surely": 2}  # that page.js shows
OF_A_SETTING = {
    "compression": ("Methods on each pair", ON_A_PAIR),
    "incremental": ("Methods, as classes arrive task by task", TASK_BY_TASK),
}


def sheets(board: Board) -> list[dict[str, Any]]:
    """Methods over pairs, where there are several, methods on each pair with the seeds behind every row, and costs."""
    over_pairs = []
    if not board.methods.empty:
        over_pairs = [_sheet("Methods over pairs", board.methods, FIELD, OVER_PAIRS, too_few)]
    columns = [column for column in OF_A_SEED if column.kind != "text" or _several(board, column.keys[0])]
    cells = board.cells.sort_values(["seed", "teacher", "id"])
    seeds = _grouped(
        cells, SERIES, [{"id": id, "cells": own} for id, own in zip(cells["id"], _cells(cells, columns), strict=True)]
    )
    on_pairs, taught = [], teachers(board.cells)
    for setting, series in board.series.groupby("setting"):
        title, shown = OF_A_SETTING[str(setting)]
        heads = [head for head in SECTION if head != "setting"]
        sheet = _sheet(title, series, heads, shown, lambda own: taught.get(tuple(own[SECTION].iloc[0]), ""))
        rows = [row for group in sheet["groups"] for row in group["rows"]]
        for row, key in zip(rows, series[SERIES].itertuples(index=False, name=None), strict=True):
            row["seeds"] = seeds[key]
        on_pairs.append(sheet | {"seeds": [asdict(column) for column in columns]})
    cost = _sheet("What they cost", board.series, SECTION, COSTS, lambda own: " ".join(places(own)))
    return [*over_pairs, *on_pairs, cost]


def _several(board: Board, name: str) -> bool:
    """Do any of a row's seeds differ in it?"""
    return bool((board.cells.groupby(SERIES)[name].nunique() > 1).any())


def _sheet(
    title: str, table: pd.DataFrame, by: list[str], columns: list[Column], say: Callable[[pd.DataFrame], str]
) -> dict[str, Any]:
    """Without the columns that have nothing to say; behind a group's names stands what ``say`` says of it."""
    columns = [column for column in columns if column.keys[0] in table and table[column.keys[0]].notna().any()]
    heads = [head for head in HEADS if head in by and (head != "setting" or (table[head] != "compression").any())]
    table = pd.concat([own.assign(said=say(own)) for _, own in table.groupby(by, sort=False)])
    rows = _grouped(table, [*heads, "said"], [{"cells": cells} for cells in _cells(table, columns)])
    return {
        "title": title,
        "heads": [HEADS[head] for head in heads],
        "columns": [asdict(column) for column in columns],
        "groups": [{"names": names, "rows": own} for names, own in rows.items()],
    }


def _grouped(table: pd.DataFrame, by: list[str], rows: list[Any]) -> dict[tuple[str, ...], list[Any]]:
    groups: dict[tuple[str, ...], list[Any]] = {}
    keys = zip(*(table[name].tolist() for name in by), strict=True)  # a list is gone through faster than a column
    for key, row in zip(keys, rows, strict=True):
        groups.setdefault(key, []).append(row)
    return groups


def _cells(table: pd.DataFrame, columns: list[Column]) -> list[list[Any]]:
    """A value a column, or a list where it is made of several; None where there is none."""
    made = []
    for column in columns:
        of_keys = [
            _as_shown(table[key], 6 if key.endswith("_p") else DIGITS.get(column.kind, 6)) for key in column.keys
        ]
        made.append(of_keys[0] if len(of_keys) == 1 else [list(values) for values in zip(*of_keys, strict=True)])
    return [list(row) for row in zip(*made, strict=True)]


def _as_shown(values: pd.Series, digits: int) -> list[Any]:
    """Rounded as in the other tables: JavaScript would round another way."""
    if is_numeric_dtype(values):
        return [None if math.isnan(value) else float(f"{value:z.{digits}f}") for value in values.tolist()]
    return values.astype(object).where(values.notna(), None).tolist()
