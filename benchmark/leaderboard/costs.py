"""The costs of methods, each section's from one environment: speeds of two environments do not compare."""

from collections.abc import Iterable

import pandas as pd

from kdbench.benchmark.leaderboard.frame import SECTION, SERIES, environment
from kdbench.benchmark.throughput.record import Throughput

PACES = ["images_per_second", "relative_cost", "peak_memory_mb", "paced_in", "remembered_cost", "paced_alone"]


def costs(cells: pd.DataFrame, measured: Iterable[Throughput] = ()) -> pd.DataFrame:
    """For each series: training time, images a second, time of a step relative to ce, memory and parameters.

    A section with throughput records, which are measured with nothing else on the machine, uses their speeds. Without
    any, it uses those of its cells. Both run the teacher at every step; ``remembered_cost`` reads its answers from
    memory. Images a second are those of the main phase; ``relative_cost`` also counts the phases before it.
    """
    parameters = cells.groupby(SERIES)[["deployed", "discarded"]].max()
    table = parameters.rename(columns={"deployed": "deployed_parameters", "discarded": "discarded_parameters"})
    ran = cells[cells["environment"] == _common(cells)].groupby(SERIES)
    table = table.join(ran.agg(seconds=("seconds", "median"), environment=("environment", "first")))
    paces = ran.agg(
        images_per_second=("speed", "median"), peak_memory_mb=("memory", "median"), paced_in=("environment", "first")
    ).assign(remembered_cost=float("nan"), paced_alone=False)
    ce = table["seconds"].where(table.index.get_level_values("method") == "ce")
    paces["relative_cost"] = table["seconds"] / ce.groupby(SECTION).transform("max")
    alone = _measured(cells, measured)
    if not alone.empty:
        section, measured_ones = (rows.droplevel(["source", "method"]).index for rows in (paces, alone))
        paces = pd.concat((paces.loc[~section.isin(measured_ones)], alone))
    return table.join(paces)


def _measured(cells: pd.DataFrame, measured: Iterable[Throughput]) -> pd.DataFrame:
    """The paces of series with throughput records."""
    rows = [
        {
            "measured": one.id,
            "images_per_second": one.live.images_per_second,
            "relative_cost": one.live.cost + one.initial,
            "peak_memory_mb": one.live.peak_memory_mb,
            "environment": environment(one.environment.key, one.environment.machine),
            "remembered_cost": one.remembered.cost + one.initial if one.remembered else float("nan"),
        }
        for one in measured
    ]
    if not rows:
        return pd.DataFrame()
    found = cells.drop_duplicates(SERIES)[[*SERIES, "measured"]].merge(pd.DataFrame(rows), on="measured")
    found = found[found["environment"] == _common(found)].rename(columns={"environment": "paced_in"})
    return found.set_index(SERIES).assign(paced_alone=True)[PACES]


def _common(rows: pd.DataFrame) -> pd.Series:
    """For each row, the environment in which most methods of its section ran; in a tie, one in which ce ran."""
    there = rows.assign(ce=rows["method"] == "ce").groupby([*SECTION, "environment"])
    counts = there.agg(count=("method", "nunique"), ce=("ce", "any")).reset_index()
    counts = counts.sort_values(["count", "ce", "environment"], ascending=[False, False, True])
    chosen = counts.drop_duplicates(SECTION).set_index(SECTION)["environment"]
    return rows[SECTION].join(chosen, on=SECTION)["environment"]
