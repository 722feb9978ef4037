"""Which source gains most, and how sure that is, in sentences."""

import pandas as pd

from kdbench.benchmark.leaderboard import evidence
from kdbench.benchmark.leaderboard.statistics import LEVEL
from kdbench.benchmark.leaderboard.table import FIELD, Board

FIELDS = 3  # of which something is said


def headlines(board: Board) -> list[tuple[str, str]]:
    """For the first data sets and recipes what was found, and what is to be known of it."""
    found = []
    for (setting, dataset, recipe), series in list(board.series.groupby(FIELD, sort=False))[:FIELDS]:
        cells = board.cells[(board.cells[FIELD] == [setting, dataset, recipe]).all(axis=1)]
        where = f"On {dataset}" + (f", {setting}," if setting != "compression" else "")
        found.append(_said(where, recipe, evidence.gains(cells, series), series["pair"].nunique()))
    return found


def _said(where: str, recipe: str, gains: pd.DataFrame, pairs: int) -> tuple[str, str]:
    if gains.empty:
        return f"{where} there is no gain to compare yet.", f"Recipe {recipe}: no method has run on a seed that ce has."
    by_unit = evidence.by_source(gains)
    means = evidence.intervals(by_unit, ["source"])
    first = means.iloc[0]
    units = f"{first['count']} {'pair' if pairs > 1 else 'seed'}{'s' if first['count'] > 1 else ''}"
    winner = f"knowledge from {first['source']} gains most" if first["mean"] > 0 else "no source gains anything"
    best = f": {_points(first['mean'])} points of top-1 over training on labels alone"
    if first["mean"] <= 0:
        best = f"; {first['source']} lose least, {_points(first['mean'])} points of top-1 against labels alone"
    notes = [f"Recipe {recipe}. A source stands for the mean of its methods."]
    if first["mean"] - first["half"] <= 0 <= first["mean"] + first["half"]:
        notes.append("The interval holds 0: chance alone can have made this.")
    if len(means) > 1:
        second = means.iloc[1]
        table = by_unit.pivot(index="unit", columns="source", values="gain")
        ahead = (table[first["source"]] - table[second["source"]]).dropna()
        lead = evidence.intervals(pd.DataFrame({"gain": ahead, "of": ""}), ["of"]) if len(ahead) else None
        notes.append(f"Next: {second['source']}, {_points(second['mean'])}.")
        if lead is not None and pd.notna(lead["half"][0]):
            known = (
                "more than chance would make" if lead["mean"][0] > lead["half"][0] else "no more than chance can make"
            )
            notes.append(
                f"On the same {units.split()[1]} the lead is {lead['mean'][0]:.2f} ± {lead['half'][0]:.2f}, {known}."
            )
        notes.append(f"Which of the {len(means)} sources is first was seen in these same runs.")
    if pairs == 1:
        notes.append("One pair speaks for no other.")
    return f"{where}, {winner}{best} ({_interval(first)}{units}).", " ".join(notes)


def _interval(row: "pd.Series[float]") -> str:
    if pd.isna(row["half"]):
        return ""
    return f"{LEVEL:.0%} interval {_points(row['mean'] - row['half'])} to {_points(row['mean'] + row['half'])}, "


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
