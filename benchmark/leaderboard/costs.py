"""What a method costs, each section's inside one environment: speeds of two have nothing to say to one another."""

import pandas as pd

from kdbench.benchmark.leaderboard.frame import SECTION

METHOD = [*SECTION, "source", "method"]


def costs(cells: pd.DataFrame) -> pd.DataFrame:
    """Of each series: seconds of training, images a second, a step's time against ce's, memory and parameters."""
    parameters = cells.groupby(METHOD)[["deployed", "discarded"]].max()
    timed = cells[cells["environment"] == _common(cells)]
    table = timed.groupby(METHOD).agg(
        environment=("environment", "first"),
        seconds=("seconds", "median"),
        images_per_second=("speed", "median"),
        peak_memory_mb=("memory", "median"),
    )
    table["remembered_per_second"] = float("nan")
    ce = table["images_per_second"].where(table.index.get_level_values("method") == "ce")
    table["relative_cost"] = ce.groupby(SECTION).transform("max") / table["images_per_second"]
    table = parameters.join(table)
    names = {"deployed": "deployed_parameters", "discarded": "discarded_parameters"}
    return table.rename(columns=names)


def _common(cells: pd.DataFrame) -> pd.Series:
    """For each row the environment in which most of its section's methods have run."""
    counts = cells.groupby([*SECTION, "environment"])["method"].nunique().reset_index(name="count")
    counts = counts.sort_values(["count", "environment"], ascending=[False, True])
    chosen = counts.drop_duplicates(SECTION).set_index(SECTION)["environment"]
    return cells[SECTION].join(chosen, on=SECTION)["environment"]
