"""What a method costs, each section's inside one environment: speeds of two have nothing to say to one another."""

from collections.abc import Iterable

import pandas as pd

from kdbench.benchmark.experiments.parameters import shown
from kdbench.benchmark.leaderboard.frame import SECTION, SERIES, environment
from kdbench.benchmark.throughput.record import Throughput

PACES = ["images_per_second", "relative_cost", "peak_memory_mb", "paced_in", "remembered_cost", "paced_alone"]
ASKED = ["dataset", "recipe", "networks", "method"]  # what a throughput record was measured for


def costs(cells: pd.DataFrame, measured: Iterable[Throughput] = ()) -> pd.DataFrame:
    """Of each series: time of training, images a second, a step's time against ce's, memory and parameters.

    Where a section's methods were measured by themselves, with nothing else on the machine, those speeds stand; where
    none was, those of its cells. Both are with the teacher asked anew; ``remembered_cost`` is with its answers
    remembered. Images a second are the main phase's; ``relative_cost`` counts the phases before it too.
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
    """The paces of series that were measured by themselves."""
    rows = [
        {
            "dataset": one.dataset,
            "recipe": one.recipe,
            "networks": one.pair,
            "method": shown(one.method, one.params),
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
    paces = pd.DataFrame(rows)
    paces = paces[~paces.duplicated([*ASKED, "environment"], keep=False)]  # which would be meant?
    series = cells.drop_duplicates(SERIES)[[*SERIES, "teacher"]]
    # How a teacher was trained changes no speed; who has no teacher was measured alone.
    pair = series["pair"].str.replace(r" #\w{6}$", "", regex=True)
    series["networks"] = pair.where(series["teacher"] != "", pair.str.rpartition(" → ")[2])
    found = series.merge(paces, on=ASKED)
    found = found[found["environment"] == _common(found)].rename(columns={"environment": "paced_in"})
    return found.set_index(SERIES).assign(paced_alone=True)[PACES]


def _common(rows: pd.DataFrame) -> pd.Series:
    """For each row the environment in which most of its section's methods ran; of two with as many, where ce did."""
    there = rows.assign(ce=rows["method"] == "ce").groupby([*SECTION, "environment"])
    counts = there.agg(count=("method", "nunique"), ce=("ce", "any")).reset_index()
    counts = counts.sort_values(["count", "ce", "environment"], ascending=[False, False, True])
    chosen = counts.drop_duplicates(SECTION).set_index(SECTION)["environment"]
    return rows[SECTION].join(chosen, on=SECTION)["environment"]
