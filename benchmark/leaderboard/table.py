"""The leaderboard's two tables: methods on one pair, and methods over pairs. They depend on the rows only."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdbench.benchmark.leaderboard import statistics
from kdbench.benchmark.leaderboard.costs import costs
from kdbench.benchmark.leaderboard.frame import SECTION, SERIES
from kdbench.benchmark.leaderboard.task import REFERENCES
from kdbench.benchmark.throughput.record import Throughput
from kdbench.methods.method import SOURCES

FIELD = ["setting", "dataset", "recipe"]  # a method is judged over the pairs of a field
GAINS = [f"over_{reference}" for reference in REFERENCES]
SAME = 9  # decimals of a percentage: later ones differ between machines


@dataclass(frozen=True)
class Board:
    """All published results, as tables."""

    cells: pd.DataFrame  # one row for each cell: see frame
    series: pd.DataFrame  # one for each method on a pair
    methods: pd.DataFrame  # one for each method over the pairs of a field; empty if no field has three pairs
    failed: pd.DataFrame = field(default_factory=pd.DataFrame)  # one for each failed run without a record


def board(cells: pd.DataFrame, measured: Iterable[Throughput] = ()) -> Board:
    if cells.empty:
        return Board(cells, cells, cells)
    table = series(cells, measured)
    return Board(cells, table, methods(cells, table))


def series(cells: pd.DataFrame, measured: Iterable[Throughput] = ()) -> pd.DataFrame:
    """One row for each series, best of a source first: mean and deviation over seeds, gains on the same seeds, costs.

    If a pair has several teacher seeds, a student's seed counts once, by its mean over teachers.
    """
    runs = cells.groupby([*SERIES, "seed"], as_index=False).agg(
        top1=("top1", "mean"),
        best=("best", "mean"),
        over_ce=("over ce", "mean"),
        over_kd=("over kd", "mean"),
        average=("average", "mean"),
        forgetting=("forgetting", "mean"),
        backward=("backward", "mean"),
    )
    grouped = runs.groupby(SERIES)
    table = grouped[["top1", "best", "average", "forgetting", "backward"]].mean()
    table.insert(0, "n", grouped.size())
    taught = cells[cells["teacher"] != ""].drop_duplicates([*SERIES, "teacher"]).groupby(SERIES)
    table.insert(1, "runs", cells.groupby(SERIES).size())
    table.insert(2, "teachers", taught.size().reindex(table.index, fill_value=0))
    table["teacher_top1"] = taught["teacher_top1"].mean()
    table.insert(4, "std", _within_teachers(cells))
    table.insert(5, "std_teachers", _between_teachers(cells, table))
    table.insert(6, "rank", table["top1"].round(SAME).groupby(SECTION).rank(ascending=False))
    p = pd.DataFrame({name: _judged(table, name, grouped[name].agg(["mean", "std", "count"])) for name in GAINS})
    _starred(table, p, SECTION)
    table["correlation"] = _correlation(runs, SERIES)
    table = table.join(costs(cells, measured)).reset_index()
    # A series that is alone in its section has nothing to compare with, and comes after the pairs.
    table["alone"] = table.groupby(SECTION)["method"].transform("size") == 1
    return _best_first(table, [*FIELD, "alone", "pair"], "top1").drop(columns="alone")


def methods(cells: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """One row for each method over three or more pairs of a data set and recipe. The unit is a pair's mean gain.

    With fewer pairs than ``pairs_needed``, no p-value can be small enough, and none is given.
    """
    series = series[series["setting"] == "compression"]  # ways for classes to arrive are not a sample of anything
    series = paired(series)
    pairs = series.groupby(FIELD)["pair"].transform("nunique")
    ran = series.groupby([*FIELD, "method"])["pair"].transform("nunique")
    several, every = series[ran >= statistics.SAMPLE].copy(), (ran == pairs)[ran >= statistics.SAMPLE]
    if several.empty:
        return several
    # Ranks are among methods that ran on every pair: only these are comparable.
    several["rank"] = several[every].round({"top1": SAME}).groupby(SECTION)["top1"].rank(ascending=False)
    several["top1"] = several["top1"].where(every)
    # Costs are combined only if all are from one environment, and for methods that were timed on the same pairs.
    somewhere = several.groupby(FIELD)["paced_in"].transform("nunique") > 1
    paced = several.groupby([*FIELD, "method"])["relative_cost"].transform("count")
    everywhere = paced == paced.groupby([several[name] for name in FIELD]).transform("max")
    several["log_cost"] = np.log(several["relative_cost"].where(everywhere & ~somewhere))

    grouped = several.groupby([*FIELD, "source", "method"])
    table = grouped.agg(pairs=("pair", "nunique"), top1=("top1", "mean"), rank=("rank", "mean"))
    for name in GAINS:
        gain = grouped[name].agg(["mean", "std", "count"])
        freedom = gain["count"].sub(1)
        table[name], table[f"{name}_n"] = gain["mean"], gain["count"]
        table[f"{name}_half"] = statistics.half_width(gain["std"], gain["count"], freedom.where(freedom > 0))
        table[f"{name}_half_seeds"] = _over_seeds(cells, name.replace("_", " ")).reindex(table.index)
    tests = _starred(table, pd.DataFrame({name: _sign_tests(several, name) for name in GAINS}), FIELD)
    table["pairs_needed"] = tests.map(statistics.pairs_needed).reindex(table.index)
    few = several.groupby(FIELD)["pair"].nunique().reindex(table.index) < table["pairs_needed"]
    table.loc[few, [f"{name}_p" for name in GAINS]] = float("nan")
    table["correlation"] = _correlation(cells, [*FIELD, "source", "method"])
    table["relative_cost"] = np.exp(grouped["log_cost"].mean())
    return _best_first(table.reset_index(), FIELD, "over_ce")


def paired(series: pd.DataFrame) -> pd.DataFrame:
    """The series without those that are alone in their section, such as teachers, which are not pairs."""
    return series[series.groupby(SECTION)["method"].transform("nunique") > 1]


def too_few(table: pd.DataFrame) -> str:
    """The note on a field without p-values; empty if it has some."""
    needed, pairs = table["pairs_needed"].iloc[0], table["pairs"].max()
    said = f"{pairs} pairs are too few: with so many gains, a test over pairs finds nothing below {needed} pairs."
    return said if pairs < needed else ""


def _judged(table: pd.DataFrame, name: str, gain: pd.DataFrame) -> pd.Series:
    """Add a gain and its interval to the table, and return its p-values.

    The deviation also uses the scatter of gains on the other pairs of the field.
    """
    std, freedom = statistics.moderated(gain["std"], gain["count"], field=FIELD, method=[*FIELD, "method"])
    by_task = table.index.get_level_values("setting") == "incremental"  # ways of arriving say nothing about each other
    std, freedom = std.mask(by_task, gain["std"]), freedom.mask(by_task, gain["count"].sub(1))
    table[name], table[f"{name}_n"] = gain["mean"], gain["count"]
    table[f"{name}_half"] = statistics.half_width(std, gain["count"], freedom)
    return statistics.p_values(gain["mean"], std, gain["count"], freedom)


def _starred(table: pd.DataFrame, p: pd.DataFrame, within: list[str]) -> pd.Series:
    """Add the p-values of both columns, corrected over all tests of a table, and return the number of tests.

    ce over kd has the interval and p of kd over ce, and counts once.
    """
    method = table.index.get_level_values("method")
    tests = pd.concat({"over_ce": p["over_ce"], "over_kd": p["over_kd"].where(method != "ce")}, names=["column"])
    adjusted = tests.groupby(within).transform(statistics.holm)
    for name in GAINS:
        table[f"{name}_p"] = adjusted[name]
    for what in ("half", "p"):
        other_side = table[f"over_ce_{what}"].where(method == "kd").groupby(within).transform("max")
        table[f"over_kd_{what}"] = table[f"over_kd_{what}"].where(method != "ce", other_side)
    return tests.groupby(within).count()


def _over_seeds(cells: pd.DataFrame, name: str) -> pd.Series:
    """Half of the interval of the mean over pairs, with the seed as the unit.

    Pairs share seeds, and what a seed does to all pairs alike does not show in the scatter of pairs.
    """
    of = [*FIELD, "source", "method"]
    runs = cells.groupby([*of, "pair", "seed"])[name].mean().dropna()
    means = {key: statistics.by_seed(own) for key, own in runs.groupby(of)}
    methods = pd.MultiIndex.from_tuples(means, names=of)  # may be empty
    n = pd.Series([len(own) for own in means.values()], methods, dtype=float)
    std = pd.Series([own.std() for own in means.values()], methods, dtype=float)
    return statistics.half_width(std, n, n - 1)


def _sign_tests(series: pd.DataFrame, name: str) -> pd.Series:
    """The p-value of each method's gains over the pairs of its field."""
    found = []
    for _, own in series.groupby(FIELD):
        gains = own.pivot(index=[*FIELD, "source", "method"], columns="pair", values=name)
        found.append(pd.Series(statistics.over_pairs(gains.to_numpy()), index=gains.index))
    return pd.concat(found)


def _within_teachers(cells: pd.DataFrame) -> pd.Series:
    """The standard deviation over a student's seeds, pooled over its teachers if there are several."""
    of = cells.groupby([*SERIES, "teacher"])["top1"].agg(["var", "count"])
    freedom = of["count"] - 1
    squares = (of["var"] * freedom).groupby(SERIES).sum(min_count=1)
    return (squares / freedom.groupby(SERIES).sum()) ** 0.5


def _between_teachers(cells: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    several = cells[cells.groupby(SERIES)["teacher"].transform("nunique") > 1]
    found = {}
    for key, own in several.groupby(SERIES):
        runs = own.set_index(["teacher", "seed"])["top1"].unstack().dropna(axis=1)
        found[key] = statistics.between_teachers(runs.to_numpy())
    return pd.Series(found, index=table.index, dtype=float)


def _correlation(runs: pd.DataFrame, by: list[str]) -> pd.Series:
    """The correlation of runs with those of ce on the same seeds, each relative to its pair's mean, from 3 runs on."""
    gain = next(name for name in ("over ce", "over_ce") if name in runs)
    own = runs[runs[gain].notna()]
    both = pd.DataFrame({"x": own["top1"], "y": own["top1"] - own[gain]})
    series = both.groupby([own[name] for name in SERIES])
    both = (both - series.transform("mean"))[series["x"].transform("size") > 2]
    products = pd.DataFrame({"xy": both["x"] * both["y"], "xx": both["x"] ** 2, "yy": both["y"] ** 2})
    sums = products.groupby([own.loc[products.index, name] for name in by]).sum()
    scale = (sums["xx"] * sums["yy"]) ** 0.5
    return sums["xy"] / scale.where(scale > 1e-9)


def _best_first(table: pd.DataFrame, within: list[str], by: str) -> pd.DataFrame:
    place = table["source"].map({name: place for place, name in enumerate(SOURCES)}).fillna(len(SOURCES))
    best_first = [True] * (len(within) + 1) + [False, True]
    order = table.assign(place=place).round({by: SAME})
    order = order.sort_values([*within, "place", by, "method"], ascending=best_first)
    return table.loc[order.index].reset_index(drop=True)
