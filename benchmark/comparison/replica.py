"""The same cells, run a second time: somebody else's records compared with ours."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from kdbench.benchmark.comparison.claims import interval
from kdbench.benchmark.leaderboard.frame import SERIES, frame
from kdbench.benchmark.leaderboard.report import Column, Report, chance, plain, spread
from kdbench.benchmark.leaderboard.statistics import LEVEL, holm
from kdbench.benchmark.leaderboard.table import FIELD, GAINS, board
from kdbench.benchmark.records import archive
from kdbench.benchmark.records.cell import IMPORT
from kdbench.benchmark.records.record import Brief
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.words import counted
from kdbench.refusal import Refusal

ABOUT = (
    "The same cells in two folders of records: top-1 after the last epoch, mean over the seeds that both have. The "
    f"difference is theirs minus ours on the same seed, ± half of its {LEVEL:.0%} t interval over seeds. p is that of "
    "its t test, corrected by Holm over all rows. Each side has its own gains over ce, as in its leaderboard of these "
    "cells."
)


@dataclass(frozen=True)
class Row:
    """A series that both sides have."""

    setting: str
    dataset: str
    recipe: str
    pair: str
    source: str
    method: str
    n: int  # seeds
    ours: float
    theirs: float
    difference: float
    half: float | None
    p: float | None
    our_gain: float | None
    our_star: bool
    their_gain: float | None
    their_star: bool


@contextmanager
def opened(place: Path) -> Iterator[Store]:
    """The records of a results folder or an archive."""
    if place.is_dir():
        yield Store(place, only_reads=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        store.troubles += archive.take_in(store, place).damaged
        if not store.records_folder.exists():
            why = f": {store.troubles[0]}" if store.troubles else ""
            raise Refusal(f"{place} must hold records, got none{why}")
        yield store


def report(ours: Store, theirs: Store, only: set[str] | None = None) -> Report:
    """The comparison of two stores; ``only`` limits it to these cells."""
    trained = (record for record in ours.briefs() if record.cell.method != IMPORT)
    mine = {record.id: record for record in trained if only is None or record.id in only}
    found = {record.id: record for record in theirs.briefs()}
    if not found:
        raise Refusal(
            f"{theirs.folder} must be an archive of records or a results folder, with records/ in it, got none"
        )
    yours = {key: record for key, record in found.items() if key in mine}
    if not yours:
        raise Refusal(f"{ours.folder} and the other records must have cells in common, got none")
    mine = {key: mine[key] for key in yours}
    both = _beside(mine, yours)
    rows = corrected(_rows(both))
    said = "\n".join(f"- {sentence}" for sentence in _headline(mine, yours, both, rows))
    return Report("replica", "The same cells twice", ABOUT, [plain(row) for row in rows], COLUMNS, said)


def _beside(mine: dict[str, Brief], yours: dict[str, Brief]) -> pd.DataFrame:
    """One row for each cell, with ``top1`` and the gains of the series on each side, in the order of our tables.

    The tables repeat a student without a teacher for every teacher. Here it has one row.
    """
    sides = []
    for records in (mine, yours):
        found = board(frame(records.values()))
        gains = found.series[[*SERIES, *(f"{name}{what}" for name in GAINS for what in ("", "_p"))]]
        sides.append(gains.merge(found.cells[["id", "seed", "teacher", *SERIES, "top1"]], on=SERIES))
    theirs = sides[1].drop(columns=["seed", "teacher", "recipe"])  # they may have written a recipe in another way
    same = ["id", *(name for name in SERIES if name != "recipe")]
    both = sides[0].merge(theirs, how="left", on=same, suffixes=("", "_theirs")).drop_duplicates("id")
    # In their tables a cell may have another place, if they trained it on other data.
    both["top1_theirs"] = both["id"].map({key: record.result.top1 for key, record in yours.items()})
    return both


def _rows(both: pd.DataFrame) -> list[Row]:
    rows = []
    for key, own in both.groupby(SERIES, sort=False):
        series: dict[str, Any] = dict(zip(SERIES, key, strict=True))
        runs = own.groupby("seed")[["top1", "top1_theirs"]].mean()  # a seed counts once, by its mean over teachers
        difference, half, p = interval((runs["top1_theirs"] - runs["top1"]).tolist())
        gains = own.iloc[0]
        rows.append(
            Row(
                **series,
                n=len(runs),
                ours=float(runs["top1"].mean()),
                theirs=float(runs["top1_theirs"].mean()),
                difference=difference,
                half=half,
                p=p,
                our_gain=_known(gains["over_ce"]),
                our_star=bool(gains["over_ce_p"] < 1 - LEVEL),
                their_gain=_known(gains["over_ce_theirs"]),
                their_star=bool(gains["over_ce_p_theirs"] < 1 - LEVEL),
            )
        )
    return rows


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def corrected(rows: list[Row]) -> list[Row]:
    """Correct p for the number of rows: among many tests, some intervals exclude zero by chance."""
    among = holm(pd.Series([row.p for row in rows], dtype=float))
    return [row if row.p is None else replace(row, p=p) for row, p in zip(rows, among, strict=True)]


# -- in sentences -----------------------------------------------------------------------------------------------------


def _headline(mine: dict[str, Brief], yours: dict[str, Brief], both: pd.DataFrame, rows: list[Row]) -> list[str]:
    same = sum(mine[key].result.weights == yours[key].result.weights for key in mine)
    elsewhere = sum(mine[key].environment.key != yours[key].environment.key for key in mine)
    found = [
        f"{counted(len(mine), 'cell')} in both: {same} with the same weights, {elsewhere} from another environment",
        *_on_other_data(mine, yours),
        *_broken(mine, yours),
        *(f"{_called(own)}: {_scatter(own)}" for _, own in both.groupby(FIELD)),
    ]
    means = [row for row in rows if row.n > 1]
    equal = sum(row.difference == 0 and row.half is None for row in means)
    apart = sum(abs(row.difference) > row.half for row in means if row.half is not None)
    sure = sum(row.p < 1 - LEVEL for row in means if row.p is not None)
    found.append(
        f"of {counted(len(means), 'mean')} over several seeds, {equal} are equal and {apart} differ by more than their "
        f"interval (about {(1 - LEVEL) * (len(means) - equal):.0f} by chance), {sure} of them after Holm's correction"
    )
    return found + [said for name in GAINS if (said := _stars(both.drop_duplicates(SERIES), name))]


def _stars(series: pd.DataFrame, name: str) -> str:
    """How many stars over ce, or over kd, both sides have; ce over kd and kd over ce count as one."""
    if name == "over_kd":
        series = series[series["method"] != "ce"]
    here, there = (series[f"{name}_p{side}"] < 1 - LEVEL for side in ("", "_theirs"))
    if not (count := int((here | there).sum())):
        return ""
    turned = (series[name] * series[f"{name}_theirs"] < 0)[here | there]
    both, what = (here & there).sum(), f"{counted(count, 'gain')} {name.replace('_', ' ')}"
    return f"of {what} with a ★ on either side, {both} have it on both, and {turned.sum()} have opposite signs"


def _called(field: pd.DataFrame) -> str:
    setting, dataset, recipe = field[FIELD].iloc[0]
    return f"{dataset} · {recipe}" + (" · task by task" if setting == "incremental" else "")


def _on_other_data(mine: dict[str, Brief], yours: dict[str, Brief]) -> list[str]:
    others = sum(not _same_data(mine[key], yours[key]) for key in mine)
    return [f"{counted(others, 'cell')} with other images or labels, whose results say nothing"] if others else []


def _same_data(one: Brief, other: Brief) -> bool:
    """An empty digest is of unknown data."""
    return one.data == other.data or "" in (one.data, other.data)


def _broken(mine: dict[str, Brief], yours: dict[str, Brief]) -> list[str]:
    """A sentence if cells of one environment differ, which its key promises that they do not."""
    alike = [
        key
        for key in mine
        if mine[key].environment.key == yours[key].environment.key
        and mine[key].result.teacher_weights == yours[key].result.teacher_weights
        and _same_data(mine[key], yours[key])
    ]
    others = sum(mine[key].result.weights != yours[key].result.weights for key in alike)
    told = f"with the same environment and teacher, {others} of {len(alike)} have different weights"
    return [f"{told}, which must not happen"] if others else []


def _scatter(both: pd.DataFrame) -> str:
    """The median difference of two runs of a cell, and of two seeds; some methods scatter too widely for a mean."""
    again = (both["top1_theirs"] - both["top1"]).abs().median()
    seeds = [
        abs(one - other) for _, own in both.groupby([*SERIES, "teacher"]) for one, other in combinations(own["top1"], 2)
    ]
    said = f"the median difference is {again:.2f} points between two runs of a cell"
    return f"{said} and {median(seeds):.2f} between two of our seeds of a series" if seeds else said


def _gain(gain: float | None, star: bool) -> str:
    return spread(gain, None, "+") + (" ★" if star else "")


COLUMNS: dict[str, Column] = {
    "data set": lambda row: row["dataset"],
    "recipe": lambda row: row["recipe"],
    "pair": lambda row: row["pair"],
    "method": lambda row: row["method"],
    "n": lambda row: str(row["n"]),
    "ours": lambda row: spread(row["ours"], None),
    "theirs": lambda row: spread(row["theirs"], None),
    "difference": lambda row: spread(row["difference"], row["half"], "+"),
    "p": lambda row: "–" if row["p"] is None else chance(row["p"]),
    "over ce, ours": lambda row: _gain(row["our_gain"], row["our_star"]),
    "over ce, theirs": lambda row: _gain(row["their_gain"], row["their_star"]),
}
