"""Which source gains most, and how sure that is, in sentences."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from kdbench.benchmark.leaderboard import evidence
from kdbench.benchmark.leaderboard.statistics import ENOUGH, LEVEL
from kdbench.benchmark.leaderboard.table import Board

FIELDS = 3  # of which something is said


def headlines(board: Board) -> list[tuple[str, str]]:
    """For the first data sets what was found, by the recipe with which most was run, and what is to be known of it."""
    most: dict[tuple[str, ...], tuple[str, pd.DataFrame, pd.DataFrame]] = {}
    for (setting, dataset, recipe, *way), cells, series in sorted(
        evidence.fields(board), key=lambda field: len(field[1])
    ):
        most[setting, dataset, *way] = recipe, cells, series
    found = []
    for (_, dataset, *way), (recipe, cells, series) in sorted(most.items())[:FIELDS]:
        where = ", ".join([f"On {dataset}", *way])
        pairs, gains = series["pair"].nunique(), evidence.gains(cells, series)
        said, notes = _said(where, recipe, gains, pairs, evidence.gains_by_seed(cells, series))
        found.append((said, f"{notes}{_besides(cells, series)}"))
    return found


def _besides(cells: pd.DataFrame, series: pd.DataFrame) -> str:
    """Of methods that ran on one pair alone, while others ran on several: they are in none of these means."""
    one = evidence.of_one_pair(cells, series)
    if one is None or one[1].empty:
        return ""
    pair, gains, halves = one
    best = evidence.intervals(gains, ["method"]).iloc[0]
    half = halves[best["method"]]
    gain = _points(best["mean"]) + (f" ± {half:.2f}" if pd.notna(half) else "")
    return f" Most methods ran on {pair}, some on it alone: {best['method']} comes first there, {gain}."


def _said(where: str, recipe: str, gains: pd.DataFrame, pairs: int, by_seed: pd.DataFrame) -> tuple[str, str]:
    if gains.empty:
        ran = "two pairs on seeds" if pairs > 1 else "a seed"
        return (
            f"{where}, there is no gain to speak of yet.",
            f"Recipe {recipe}: no method ran on {ran} that ce ran on.",
        )
    by_unit, unit, of_seeds = evidence.by_source(gains), "pairs" if pairs > 1 else "seeds", evidence.by_source(by_seed)
    leader, *others = evidence.intervals(by_unit, ["source"]).to_dict("records")
    first = _wider(leader, evidence.intervals(of_seeds[of_seeds["source"] == leader["source"]], ["source"]))
    best = evidence.intervals(gains, ["source", "method"]).iloc[0]
    ahead = [first["source"], *(other["source"] for other in others[:1])]
    members = "; ".join(_members(gains[gains["source"] == source], unit) for source in ahead)
    notes = [f"Recipe {recipe}. A source stands for the mean of its methods: {members}."]
    decided = bool(others) and _sure(first)
    if others:
        lead = _lead(by_unit, of_seeds, first, others[0])
        decided &= lead is not None and _sure(lead) and best["source"] == first["source"]
        behind = _behind(lead, first, others[0], unit) if lead else ""
        notes.append(f"Next: {others[0]['source']}, {_points(others[0]['mean'])}{behind}.")
        notes.append("Who leads was picked from these same runs, which flatters the leader.")
    if pairs == 1:
        notes.append("One pair speaks for no other.")
    interval = (
        f"{LEVEL:.0%} interval {_points(first['mean'] - first['half'])} to {_points(first['mean'] + first['half'])}"
    )
    seen = f"{first['count']} {unit}" if first["count"] > 1 else f"one {unit[:-1]}"
    if pd.notna(first["half"]):
        seen = f"{interval}{first.get('by', '')} over {seen}"
    gain = f"{_points(first['mean'])} points of top-1 against labels alone ({seen})"
    if decided:
        verb = "gains most" if first["mean"] > 0 else "loses least"
        return f"{where}, knowledge from {first['source']} {verb}: {gain}.", " ".join(notes)
    place = "Ahead is" if first["mean"] > 0 else "Least behind is"
    said = f"{where}, nothing is decided yet. {place} knowledge from {first['source']}: {gain}."
    if best["source"] != first["source"]:  # by how many weak methods a source happens to have
        said += f" But the best method is of {best['source']}: {best['method']}, {_points(best['mean'])}."
    return said, " ".join(notes)


def _sure(mean: Mapping[Hashable, Any]) -> bool:
    """Chance, or too few runs, may have made all of it; where runs are alike nothing tells how they scatter."""
    return bool(mean["count"] >= ENOUGH and abs(mean["mean"]) > mean["half"])


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


def _lead(
    by_unit: pd.DataFrame, by_seed: pd.DataFrame, first: Mapping[Hashable, Any], second: Mapping[Hashable, Any]
) -> Mapping[Hashable, Any] | None:
    """How far the first is ahead of the second, on what both ran on: two or more."""

    def ahead(gains: pd.DataFrame) -> pd.DataFrame:
        table = gains.pivot(index="unit", columns="source", values="gain")
        table = table.reindex(columns=[first["source"], second["source"]])
        lead = pd.DataFrame({"lead": "", "gain": table[first["source"]] - table[second["source"]]}).dropna()
        return evidence.intervals(lead, ["lead"])

    lead = ahead(by_unit)
    return _wider(lead.to_dict("records")[0], ahead(by_seed)) if len(lead) and lead["count"].iloc[0] > 1 else None


def _wider(mean: Mapping[Hashable, Any], by_seed: pd.DataFrame) -> Mapping[Hashable, Any]:
    """A mean over pairs, with its interval by seed where that is the wider one."""
    half = by_seed["half"].max()
    return {**mean, "half": half, "by": ", by seed,"} if half > mean["half"] else mean


def _behind(
    lead: Mapping[Hashable, Any], first: Mapping[Hashable, Any], second: Mapping[Hashable, Any], unit: str
) -> str:
    alike = first["count"] == second["count"] == lead["count"]
    where = f"the same {unit}" if alike else f"the {lead['count']} {unit} of both"  # the means shown are over others
    place, by = "behind" if lead["mean"] >= 0 else "ahead", f"{abs(lead['mean']):.2f}"
    if pd.isna(lead["half"]):  # alike on every one
        return f"; on {where} {by} {place}"
    close = ", too close to tell" if abs(lead["mean"]) <= lead["half"] else ""
    return f"; on {where} {by} ± {lead['half']:.2f} {place}{close}"


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
