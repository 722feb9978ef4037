"""The data of the pictures: one DataFrame each, from the board's rows and the records behind them."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pandas as pd

from kdbench.benchmark.leaderboard.drawing import kind
from kdbench.benchmark.leaderboard.statistics import SAMPLE, by_seed, half_width
from kdbench.benchmark.leaderboard.table import FIELD, Board, paired
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Finding, Store
from kdbench.methods.features.layers import PAIRS
from kdbench.methods.features.quality import REMEMBERED, against, best

WIDTHS = 3  # of one family that a study needs


def fields(board: Board) -> list[tuple[list[str], pd.DataFrame, pd.DataFrame]]:
    """Each setting, data set and recipe, with its cells and its series.

    Ways for classes to arrive are not a sample of anything, so each is its own field. So is each of two pairs. If some
    students ran with several methods, students with one method only, such as teachers, are left out.
    """
    cells, found = dict(iter(board.cells.groupby(FIELD))), []
    for key, series in board.series.groupby(FIELD):
        names, own = [str(name) for name in key], cells[key]
        if names[0] == "compression":
            several = paired(series)
            if not several.empty:
                series, own = several, own[own["pair"].isin(several["pair"])]
        if names[0] == "incremental" or 1 < series["pair"].nunique() < SAMPLE:
            ways = series.groupby("pair")
            found += [([*names, str(way)], own[own["pair"] == way], rows) for way, rows in ways]
        else:
            found.append((names, own, series))
    return found


def gains(cells: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """``source method unit gain`` of one field.

    The unit is the pair, without methods that ran on too few. In a field with one pair, it is the seed.
    """
    if series["pair"].nunique() > 1:
        on_several = series.groupby("method")["pair"].transform("nunique") >= SAMPLE
        rows = series[on_several].rename(columns={"pair": "unit", "over_ce": "gain"})
    else:
        rows = cells.rename(columns={"seed": "unit", "over ce": "gain"})
    rows = rows.groupby(["source", "method", "unit"], as_index=False).agg(gain=("gain", "mean"))
    return rows[["source", "method", "unit", "gain"]].dropna(subset=["gain"])


def gains_by_seed(cells: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """The same over several pairs, with the seed as the unit: the seeds that all pairs of a method have."""
    on_several = series.groupby("method")["pair"].transform("nunique") >= SAMPLE
    own = cells[cells["method"].isin(series.loc[on_several, "method"]) & cells["over ce"].notna()]
    runs = own.groupby(["source", "method", "pair", "seed"])["over ce"].mean()
    rows = []
    for (source, method), found in runs.groupby(["source", "method"]):
        means = by_seed(found)
        rows += [{"source": source, "method": method, "unit": seed, "gain": gain} for seed, gain in means.items()]
    return pd.DataFrame(rows, columns=["source", "method", "unit", "gain"])


def of_one_pair(cells: pd.DataFrame, series: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.Series] | None:
    """A pair for the methods that ran on too few pairs and are not in the gains over pairs: the one with most of them,
    gains by seed of all methods there, and halves of the table's intervals. None without such methods.
    """
    few = series[series.groupby("method")["pair"].transform("nunique") < SAMPLE]
    if few.empty or series["pair"].nunique() == 1:
        return None
    ran, missed = series.groupby("pair")["method"].nunique(), few.groupby("pair")["method"].nunique()
    pair = max(missed.index, key=lambda pair: (missed[pair], ran[pair]))
    own = series[series["pair"] == pair]
    return pair, gains(cells[cells["pair"] == pair], own), own.groupby("method")["over_ce_half"].first()


def by_source(gains: pd.DataFrame) -> pd.DataFrame:
    """``source unit gain``: the mean gain of a source's methods on a unit, with the same methods on each unit."""
    return matched(gains).groupby(["source", "unit"], as_index=False).agg(gain=("gain", "mean"))


def matched(gains: pd.DataFrame) -> pd.DataFrame:
    """The gains on the units on which all of a source's methods ran, so each unit has the same methods.

    If there is no such unit: the gains of the method that ran on most units, and of those that ran on all of these.
    """
    kept = []
    for _, own in gains.groupby("source"):
        ran = [set(units) for _, units in own.groupby("method")["unit"]]
        units = set.intersection(*ran) or max(ran, key=lambda units: (len(units), sum(units <= its for its in ran)))
        own = own[own["unit"].isin(units)]
        kept.append(own[own.groupby("method")["unit"].transform("nunique") == len(units)])
    return pd.concat(kept) if kept else gains


def intervals(gains: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean gains, the best first, with their number of units and half of their t intervals."""
    means = gains.groupby(by)["gain"].agg(["mean", "std", "count"]).reset_index()
    means["half"] = half_width(means["std"], means["count"], means["count"] - 1)
    return means.sort_values(["mean", *by], ascending=[False, *[True] * len(by)], ignore_index=True)


def curves(cells: pd.DataFrame, series: pd.DataFrame, records: Mapping[str, Record]) -> pd.DataFrame:
    """``pair source method epoch mean std`` of ce and of the best method of each source, over seeds."""
    rows = [
        {"pair": row["pair"], "source": row["source"], "method": row["method"], "epoch": epoch, "top1": top1}
        for row in cells[cells["method"].isin(leaders(series))].to_dict("records")
        if row["id"] in records
        for epoch, top1 in enumerate(records[row["id"]].result.curves.top1, start=1)
    ]
    return _over_seeds(rows, "epoch")


def _over_seeds(rows: list[dict[str, Any]], time: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["pair", "source", "method", time, "top1"])
    return table.groupby(["pair", "source", "method", time])["top1"].agg(["mean", "std"]).reset_index()


def leaders(series: pd.DataFrame) -> list[str]:
    """ce, and the method of each kind of source that gains most."""
    means = series.assign(kind=series["source"].map(kind)).groupby(["kind", "method"])["over_ce"].mean().dropna()
    best_first = means.reset_index().sort_values(["over_ce", "method"], ascending=[False, True])
    return ["ce", *best_first.drop_duplicates("kind")["method"]]


def widths(series: pd.DataFrame) -> pd.DataFrame:
    """``study family width source method mean half`` of a teacher's students of one family.

    It contains the methods that ran on three widths or more.
    """
    parts = series["pair"].str.extract(r"^(?P<teacher>.+) → (?P<family>resnet\d+|wrn_\d+)(?:[x_](?P<width>[\d.]+))?$")
    rows = parts.assign(width=parts["width"].fillna("1")).join(series).dropna(subset=["teacher", "over_ce"])
    rows = rows.assign(
        width=rows["width"].astype(float),
        study=rows["teacher"] + " → " + rows["family"] + ", by width",
        mean=rows["over_ce"],
        half=rows["over_ce_half"],
    )
    rows = rows[rows.groupby(["study", "method"])["width"].transform("nunique") >= WIDTHS]
    return rows[["study", "family", "width", "source", "method", "mean", "half"]].sort_values(
        ["study", "source", "method", "width"]
    )


def qualities(teachers: Iterable[str], store: Store) -> pd.DataFrame:
    """``teacher layer S I E Q chosen`` of teachers whose layers were measured with their current weights."""
    rows = []
    for teacher in teachers:
        for file in sorted((store.folder / "teachers").glob(f"{teacher}.{REMEMBERED}-*.json")):
            try:
                known, record = msgspec.json.decode(file.read_bytes(), type=Finding), store.record(teacher)
            except (OSError, ValueError) as error:
                store.troubles.append(f"{file} is no finding of knowledge quality: {error}")
                continue
            if record is None or known.weights != record.result.weights:
                continue
            found = against(known.found)
            top = best(found, PAIRS)
            rows += [
                {
                    "teacher": f"{record.cell.student}, seed {record.cell.seed}",
                    "layer": layer,
                    "S": one.separation,
                    "I": one.information,
                    "E": one.efficiency,
                    "Q": one.q,
                    "chosen": layer in top,
                }
                for layer, one in enumerate(found)
            ]
    return pd.DataFrame(rows)


def tasks(cells: pd.DataFrame, series: pd.DataFrame, records: Mapping[str, Record]) -> pd.DataFrame:
    """``pair source method task mean``: accuracy over all tasks so far, after each task, over seeds."""
    rows = [
        {"pair": row["pair"], "source": row["source"], "method": row["method"], "task": task, "top1": top1}
        for row in cells[cells["method"].isin(leaders(series))].to_dict("records")
        if row["id"] in records and (learned := records[row["id"]].result.incremental)
        for task, top1 in enumerate(learned.seen, start=1)
    ]
    return _over_seeds(rows, "task")
