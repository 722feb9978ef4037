"""Sentences that say which source gains most, and how sure that is."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from kdbench.benchmark.leaderboard import evidence
from kdbench.benchmark.leaderboard.statistics import ENOUGH, LEVEL
from kdbench.benchmark.leaderboard.table import Board

FIELDS = 3  # with sentences


def headlines(board: Board) -> list[tuple[str, str]]:
    """The finding and its notes for each of the first data sets, with the recipe that has the most runs. If it has two
    pairs, the one with the most runs."""
    most: dict[tuple[str, ...], tuple[list[str], pd.DataFrame, pd.DataFrame]] = {}
    for (setting, dataset, recipe, *way), cells, series in sorted(
        evidence.fields(board), key=lambda field: len(field[1])
    ):
        apart = way if setting == "incremental" else []
        most[setting, dataset, *apart] = [recipe, *way], cells, series
    found = []
    for (_, dataset, *_), ((recipe, *way), cells, series) in sorted(most.items(), key=lambda one: one[0])[:FIELDS]:
        where = ", ".join([f"On {dataset}", *way])
        pairs, gains = series["pair"].nunique(), evidence.gains(cells, series)
        said, notes = _said(where, recipe, gains, pairs, evidence.gains_by_seed(cells, series))
        found.append((said, f"{notes}{_besides(cells, series)}"))
    return found


def _besides(cells: pd.DataFrame, series: pd.DataFrame) -> str:
    """A sentence on methods that ran on too few pairs and are in none of these means; empty without any."""
    one = evidence.of_one_pair(cells, series)
    if one is None or one[1].empty:
        return ""
    pair, gains, halves = one
    best = evidence.intervals(gains, ["method"]).iloc[0]
    half = halves[best["method"]]
    gain = _points(best["mean"]) + (f" ± {half:.2f}" if pd.notna(half) else "")
    return f" Some methods ran on too few pairs for these means. On {pair}, {best['method']} comes first, {gain}."


def _said(where: str, recipe: str, gains: pd.DataFrame, pairs: int, by_seed: pd.DataFrame) -> tuple[str, str]:
    if gains.empty:
        over, ran = (" over pairs", "seeds with ce on three pairs") if pairs > 1 else ("", "a seed with ce")
        return f"{where}, no gain{over} can be computed yet.", f"Recipe {recipe}: no method shares {ran}."
    by_unit, unit, of_seeds = evidence.by_source(gains), "pairs" if pairs > 1 else "seeds", evidence.by_source(by_seed)
    leader, *others = evidence.intervals(by_unit, ["source"]).to_dict("records")
    first = _wider(leader, evidence.intervals(of_seeds[of_seeds["source"] == leader["source"]], ["source"]))
    best = evidence.intervals(gains, ["source", "method"]).iloc[0]
    ahead = [first["source"], *(other["source"] for other in others[:1])]
    members = "; ".join(_members(gains[gains["source"] == source], unit) for source in ahead)
    notes = [f"Recipe {recipe}. The gain of a source is the mean over its methods: {members}."]
    decided = bool(others) and _sure(first)
    if others:
        lead = _lead(by_unit, of_seeds, first, others[0])
        decided &= lead is not None and lead["mean"] > 0 and _sure(lead) and best["source"] == first["source"]
        behind = _behind(lead, first, others[0], unit) if lead else ""
        notes.append(f"Next: {others[0]['source']}, {_points(others[0]['mean'])}{behind}.")
        notes.append("The leader was picked from these same runs, which favours it.")
    if pairs == 1:
        notes.append("One pair says nothing about other pairs.")
    ends = f"{_points(first['mean'] - first['half'])} to {_points(first['mean'] + first['half'])}"
    seen = f"{first['count']} {unit}" if first["count"] > 1 else f"one {unit[:-1]}"
    if pd.notna(first["half"]):
        seen = f"{LEVEL:.0%} interval{first.get('by', '')} {ends} over {seen}"
    gain = f"{_points(first['mean'])} points of top-1 over labels only ({seen})"
    if decided:
        verb = "gains most" if first["mean"] > 0 else "loses least"
        return f"{where}, knowledge from {first['source']} {verb}: {gain}.", " ".join(notes)
    place = "is ahead" if first["mean"] > 0 else "loses least"
    said = f"{where}, the result is still undecided. Knowledge from {first['source']} {place}: {gain}."
    if best["source"] != first["source"]:  # a source may be behind only because of its weak methods
        said += f" But the best method uses {best['source']}: {best['method']}, {_points(best['mean'])}."
    return said, " ".join(notes)


def _sure(mean: Mapping[Hashable, Any]) -> bool:
    """Whether a mean is more than chance, over enough runs; False for equal runs, whose scatter is unknown."""
    return bool(mean["count"] >= ENOUGH and abs(mean["mean"]) > mean["half"])


def _members(gains: pd.DataFrame, unit: str) -> str:
    """The methods in the mean of a source, and how many were left out."""
    source, own = gains["source"].iloc[0], evidence.matched(gains)
    means = own.groupby("method")["gain"].mean().sort_values(kind="stable")
    methods, units, shared = gains["method"].nunique(), gains["unit"].nunique(), own["unit"].nunique()
    apart = f" of {methods} that share no {unit[:-1]}" if len(means) < methods else ""
    if len(means) == 1:
        return f"for {source} only {means.index[0]}" + (apart and f",{apart}")
    low, high = (f"{_points(means[name])} ({name})" for name in means.index[[0, -1]])
    where = f", on the {shared} of {units} {unit} on which all of them ran" if shared < units and not apart else ""
    return f"for {source} {len(means)} methods{apart}, from {low} to {high}{where}"


def _lead(
    by_unit: pd.DataFrame, by_seed: pd.DataFrame, first: Mapping[Hashable, Any], second: Mapping[Hashable, Any]
) -> Mapping[Hashable, Any] | None:
    """The lead of the first over the second on the units that both have; None if there are fewer than two."""

    def ahead(gains: pd.DataFrame) -> pd.DataFrame:
        table = gains.pivot(index="unit", columns="source", values="gain")
        table = table.reindex(columns=[first["source"], second["source"]])
        lead = pd.DataFrame({"lead": "", "gain": table[first["source"]] - table[second["source"]]}).dropna()
        return evidence.intervals(lead, ["lead"])

    lead = ahead(by_unit)
    return _wider(lead.to_dict("records")[0], ahead(by_seed)) if len(lead) and lead["count"].iloc[0] > 1 else None


def _wider(mean: Mapping[Hashable, Any], by_seed: pd.DataFrame) -> Mapping[Hashable, Any]:
    """A mean over pairs, with its interval by seed if that is wider."""
    half = by_seed["half"].max()
    return {**mean, "half": half, "by": " by seed"} if half > mean["half"] else mean


def _behind(
    lead: Mapping[Hashable, Any], first: Mapping[Hashable, Any], second: Mapping[Hashable, Any], unit: str
) -> str:
    alike = first["count"] == second["count"] == lead["count"]
    where = f"the same {unit}" if alike else f"the {lead['count']} {unit} of both"  # the means shown are over others
    place, by = "behind" if lead["mean"] >= 0 else "ahead", f"{abs(lead['mean']):.2f}"
    if pd.isna(lead["half"]):  # the lead is equal on every unit
        return f"; {by} {place} on {where}"
    close = ", which may be chance" if abs(lead["mean"]) <= lead["half"] else ""
    return f"; {by} ± {lead['half']:.2f} {place} on {where}{close}"


def _points(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
