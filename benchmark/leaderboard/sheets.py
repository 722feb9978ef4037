"""The board's tables for the page's script: text, and the numbers to sort by."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from kdbench.benchmark.leaderboard.columns import (
    COSTS,
    FAILED,
    OF_A_SEED,
    OF_A_SETTING,
    OVER_PAIRS,
    SOURCE,
    TIME,
    WHERE_SEEDS_DIFFER,
    Column,
    telling,
)
from kdbench.benchmark.leaderboard.formats import places
from kdbench.benchmark.leaderboard.frame import SECTION, SERIES
from kdbench.benchmark.leaderboard.table import FIELD, Board, too_few
from kdbench.benchmark.leaderboard.teachers import teachers

HEADS = {"dataset": "Data set", "pair": "Pair", "recipe": "Recipe", "setting": "Setting"}  # of a group of rows
TITLES: dict[Hashable, str] = {
    "compression": "Methods on each pair",
    "incremental": "Methods when classes arrive task by task",
}


def sheets(board: Board) -> list[dict[str, Any]]:
    """Methods over pairs if there are several, methods on each pair with the seeds of every row, and costs."""
    over_pairs = []
    if not board.methods.empty:
        over_pairs = [_sheet("Methods over pairs", board.methods, FIELD, OVER_PAIRS, too_few)]
    cells = board.cells.sort_values(["seed", "teacher", "id"])
    columns = [*telling(OF_A_SEED, cells), *(column for column in WHERE_SEEDS_DIFFER if _several(cells, column.key))]
    seeds = _grouped(
        cells, SERIES, [{"id": id, "cells": own} for id, own in zip(cells["id"], _cells(cells, columns), strict=True)]
    )
    on_pairs, taught = [], teachers(board.cells)
    for setting, series in board.series.groupby("setting"):
        heads, shown = [head for head in SECTION if head != "setting"], [*OF_A_SETTING[setting], TIME]
        sheet = _sheet(TITLES[setting], series, heads, shown, lambda own: taught.get(tuple(own[SECTION].iloc[0]), ""))
        rows = [row for group in sheet["groups"] for row in group["rows"]]
        for row, key in zip(rows, series[SERIES].itertuples(index=False, name=None), strict=True):
            row["seeds"] = seeds[key]
        on_pairs.append(sheet | {"seeds": _heads(columns, cells)})
    cost = _sheet("Costs", board.series, SECTION, [SOURCE, *COSTS], lambda own: " ".join(places(own)))
    failed = []
    if not board.failed.empty:
        failed = [_sheet("Failed runs", board.failed, ["dataset", "pair", "recipe"], FAILED, lambda _: "")]
    return [*over_pairs, *on_pairs, cost, *failed]


def _several(cells: pd.DataFrame, name: str) -> bool:
    """Whether the seeds of any row differ in this column."""
    return bool((cells.groupby(SERIES)[name].nunique() > 1).any())


def _sheet(
    title: str, table: pd.DataFrame, by: list[str], columns: list[Column], say: Callable[[pd.DataFrame], str]
) -> dict[str, Any]:
    """A table with methods first, since a method opens its seeds. ``say`` gives the note after a group's names."""
    columns = sorted(telling(columns, table), key=lambda column: column.key != "method")
    heads = [head for head in HEADS if head in by and (head != "setting" or (table[head] != "compression").any())]
    table = pd.concat([own.assign(said=say(own)) for _, own in table.groupby(by, sort=False)])
    rows = _grouped(table, [*heads, "said"], [{"cells": cells} for cells in _cells(table, columns)])
    return {
        "title": title,
        "heads": [HEADS[head] for head in heads],
        "columns": _heads(columns, table),
        "groups": [{"names": names, "rows": own} for names, own in rows.items()],
    }


def _grouped(table: pd.DataFrame, by: list[str], rows: list[Any]) -> dict[tuple[str, ...], list[Any]]:
    groups: dict[tuple[str, ...], list[Any]] = {}
    keys = zip(*(table[name].tolist() for name in by), strict=True)  # iterating over lists is faster than over columns
    for key, row in zip(keys, rows, strict=True):
        groups.setdefault(key, []).append(row)
    return groups


def _heads(columns: list[Column], table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"name": c.name, "about": c.about, "number": is_numeric_dtype(table[c.key]), "aside": c.aside is not None}
        for c in columns
    ]


def _cells(table: pd.DataFrame, columns: list[Column]) -> list[list[Any]]:
    """The cells of each row: text, or for numeric columns a pair of the number (or None) and its text."""
    made: list[Iterable[Any]] = []
    for column in columns:
        words, values = column.words(table), table[column.key]
        if is_numeric_dtype(values):
            made.append(zip(values.round(6).astype(object).where(values.notna(), None), words, strict=True))
        else:
            made.append(words)
    return [list(row) for row in zip(*made, strict=True)]
