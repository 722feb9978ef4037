"""Which source gains most, and how sure that is, in sentences."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from kdbench.benchmark.leaderboard import evidence
from kdbench.benchmark.leaderboard.statistics import LEVEL
from kdbench.benchmark.leaderboard.table import Board

FIELDS = 3  # of which something is said


def headlines(board: Board) -> list[tuple[str, str]]:
    """For the first data sets and recipes what was found, and what is to be known of it."""
    found = []
    for (_, dataset, recipe, *way), cells, series in evidence.fields(board)[:FIELDS]:
        where = ", ".join([f"On {dataset}", *way])
        found.append(_said(where, recipe, evidence.gains(cells, series), series["pair"].nunique()))
    return found


def _said(where: str, recipe: str, gains: pd.DataFrame, pairs: int) -> tuple[str, str]:
    if gains.empty:
        return (
            f"{where}, there is no gain to speak of yet.",
            f"Recipe {recipe}: no method ran on a seed that ce ran on.",
        )
    by_unit, unit = evidence.by_source(gains), "pairs" if pairs > 1 else "seeds"
    first, *others = evidence.intervals(by_unit, ["source"]).to_dict("records")
    ahead = [first["source"], *(other["source"] for other in others[:1])]
    members = "; ".join(_members(gains[gains["source"] == source], unit) for source in ahead)
    notes = [f"Recipe {recipe}. A source stands for the mean of its methods: {members}."]
    if others:
        notes.append(
            f"Next: {others[0]['source']}, {_points(others[0]['mean'])}{_behind(by_unit, first, others[0], unit)}."
        )
        notes.append("Who leads was picked from these same runs, which flatters the leader.")
    if pairs == 1:
        notes.append("One pair speaks for no other.")
    interval = (
        f"{LEVEL:.0%} interval {_points(first['mean'] - first['half'])} to {_points(first['mean'] + first['half'])}"
    )
    seen = f"{first['count']} {unit}" if first["count"] > 1 else f"one {unit[:-1]}"
    if pd.notna(first["half"]):
        seen = f"{interval} over {seen}"
    gain = f"{_points(first['mean'])} points of top-1 against labels alone ({seen})"
    if abs(first["mean"]) > first["half"]:
        verb = "gains most" if first["mean"] > 0 else "loses least"
        said = f"{where}, knowledge from {first['source']} {verb}: {gain}."
    else:  # chance may have made all of it; of one run there is no interval
        said = f"{where}, nothing is decided yet. Ahead is knowledge from {first['source']}: {gain}."
    return said, " ".join(notes)


def _members(gains: pd.DataFrame, unit: str) -> str:
    """What one source stands for, and how much of it was left out."""
    source, own = gains["source"].iloc[0], evidence.matched(gains)
    means = own.groupby("method")["gain"].mean().sort_values(kind="stable")
    methods, units, shared = gains["method"].nunique(), gains["unit"].nunique(), own["unit"].nunique()
    apart = f" of {methods} that share no {unit[:-1]}" if len(means) < methods else ""
    if len(means) == 1:
        return f"{source} for {means.index[0]} alone" + (apart and f",{apart}")
    low, high = (f"{_points(means[name])} ({name})" for name in means.index[[0, -1]])
    where = f", on the {shared} of {units} {unit} that all of them ran on" if shared < units and not apart else ""
    return f"{source} for {len(means)}{apart}, from {low} to {high}{where}"


def _behind(by_unit: pd.DataFrame, first: dict[Hashable, Any], second: dict[Hashable, Any], unit: str) -> str:
    table = by_unit.pivot(index="unit", columns="source", values="gain")
    lead = pd.DataFrame({"lead": "", "gain": table[first["source"]] - table[second["source"]]}).dropna()
    if len(lead) < 2:
        return ""
    found = evidence.intervals(lead, ["lead"]).to_dict("records")[0]
    alike = first["count"] == second["count"] == len(lead)
    where = f"the same {unit}" if alike else f"the {len(lead)} {unit} of both"  # the means shown are over others too
    place, by = "behind" if found["mean"] >= 0 else "ahead", f"{abs(found['mean']):.2f}"
    if pd.isna(found["half"]):  # alike on every one
        return f"; on {where} {by} {place}"
    close = ", too close to tell" if abs(found["mean"]) <= found["half"] else ""
    return f"; on {where} {by} ± {found['half']:.2f} {place}{close}"


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
