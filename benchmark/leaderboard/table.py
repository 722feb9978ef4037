"""The leaderboard's table: a deterministic function of the records."""

from collections.abc import Iterable

import msgspec
import pandas as pd

from kdbench.benchmark.experiments.cell import IMPORT
from kdbench.benchmark.experiments.parameters import shown
from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.leaderboard import statistics
from kdbench.methods import members
from kdbench.methods.refusal import Refusal

SECTION = ["dataset", "recipe", "pair"]
ABOUT = (
    "Top-1 after the last epoch, mean ± standard deviation over n seeds; gains on the same seeds, in points, that over "
    f"ce ± half of its {statistics.LEVEL:.0%} t interval. ★: other than chance by a t test over {statistics.ENOUGH} "
    "seeds or more, Holm-corrected over the table's methods; one pair speaks for no other. Best epoch: a diagnostic, "
    "found by looking at the test set."
)
ORDER = ["labels", "logits", "features", "gradients", "relations", "other"]


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record, with its series (cells that differ in nothing but the seed) and the task that it shares with
    all whom it may be compared with."""
    rows = []
    for record in sorted(records, key=lambda record: record.id):
        cell = record.cell
        if cell.method == IMPORT:  # nothing was learned here
            continue
        series = msgspec.structs.replace(cell, seed=0)
        rows.append(
            {
                "id": record.id,
                "task": msgspec.structs.replace(series, teacher=None, method="", params={}, code={}).id,
                "teacher": cell.teacher.id if cell.teacher else "",
                "series": series.id,
                "dataset": cell.dataset,
                "recipe": cell.protocol,
                "pair": cell.pair,
                "source": source(cell.method),
                "method": shown(cell.method, cell.params),
                "seed": cell.seed,
                "top1": record.result.top1,
                "best": record.result.best_top1,
                # A teacher that was heard from memory says nothing of what a method costs.
                "speed": float("nan") if remembered(record) else record.cost.images_per_second,
                "environment": None if remembered(record) else record.environment.key,
            }
        )
    return pd.DataFrame(rows)


def remembered(record: Record) -> bool:
    return record.environment.arithmetic.get("teacher") == "remembered"


def leaderboard(records: Iterable[Record]) -> pd.DataFrame:
    """A row a series, the best of a source first: mean ± std over seeds, gains on the same seeds, images a second.

    A student without a teacher stands beside every teacher that the same student has had.
    """
    cells = frame(records)
    if cells.empty:
        return cells
    alone, taught = cells[cells["teacher"] == ""], cells[cells["teacher"] != ""]
    pairs = taught[["task", "teacher", "pair"]].drop_duplicates()
    beside = pairs.merge(alone.drop(columns=["teacher", "pair"]), on="task")
    # Who teaches is not a result of its own; who has no teacher at all stands under its own name.
    others = alone[~alone["task"].isin(pairs["task"]) & ~alone["id"].isin(taught["teacher"])]
    cells = pd.concat([taught, beside, others], ignore_index=True)

    same = ["task", "teacher", "seed"]
    for reference in ("ce", "kd"):
        base = cells.loc[cells["method"] == reference, [*same, "top1"]].rename(columns={"top1": reference})
        base = base[~base.duplicated(same, keep=False)]  # a reference that is there twice is none
        cells = cells.merge(base, how="left", on=same)
        gain = cells["top1"] - cells[reference]
        cells[f"over {reference}"] = gain.mask(cells["method"] == reference)

    cells["recipe"] = _distinct(cells, "recipe", "task", within=["dataset", "pair"])
    cells["pair"] = _distinct(cells, "pair", "teacher", within=["dataset", "recipe"])
    cells["method"] = _distinct(cells, "method", "series", within=SECTION)
    # Speeds of different environments have nothing to say to one another.
    cells.loc[cells.groupby(SECTION)["environment"].transform("nunique") > 1, "speed"] = float("nan")

    table = cells.groupby([*SECTION, "source", "method"]).agg(
        n=("seed", "size"),
        top1=("top1", "mean"),
        std=("top1", "std"),
        best=("best", "mean"),
        over_ce=("over ce", "mean"),
        over_ce_std=("over ce", "std"),
        over_ce_n=("over ce", "count"),
        over_kd=("over kd", "mean"),
        images_per_second=("speed", "median"),
    )
    table = table.reset_index()
    seeds, deviation = table.pop("over_ce_n"), table.pop("over_ce_std")
    p = statistics.p_values(table["over_ce"], deviation, seeds)
    table["over_ce_half"] = statistics.half_width(deviation, seeds)
    table["over_ce_p"] = p.groupby([table[name] for name in SECTION]).transform(statistics.holm)
    rank = table["source"].map({name: place for place, name in enumerate(ORDER)}).fillna(len(ORDER))
    best_first = [True] * (len(SECTION) + 1) + [False]
    table = table.assign(rank=rank).sort_values([*SECTION, "rank", "top1"], ascending=best_first, kind="stable")
    return table.drop(columns="rank").reset_index(drop=True)


def _distinct(cells: pd.DataFrame, name: str, id: str, within: list[str]) -> pd.Series:
    """A name that stands for several things is followed by a piece of each one's digest."""
    several = cells.groupby([*within, name])[id].transform("nunique") > 1
    return cells[name].mask(several, cells[name] + " #" + cells[id].str[-6:])


def markdown(table: pd.DataFrame) -> str:
    """A section for each data set, recipe and pair."""
    lines = ["# Leaderboard", "", ABOUT]
    for (dataset, recipe, pair), rows in table.groupby(SECTION, sort=False):
        shown_rows = pd.DataFrame(
            {
                "source": rows["source"],
                "method": rows["method"],
                "n": rows["n"],
                "top-1": [_spread(mean, std) for mean, std in zip(rows["top1"], rows["std"], strict=True)],
                "over ce": [
                    _sure(*gain) for gain in zip(rows["over_ce"], rows["over_ce_half"], rows["over_ce_p"], strict=True)
                ],
                "over kd": rows["over_kd"].map(_gain),
                "best epoch": rows["best"].map("{:.2f}".format),
                "images/s": rows["images_per_second"].map(lambda v: "–" if pd.isna(v) else f"{v:,.0f}"),
            }
        )
        align = ("left", "left", *["right"] * 6)
        body = shown_rows.to_markdown(index=False, disable_numparse=True, colalign=align)
        lines += ["", f"## {dataset} · {pair} · {recipe}", "", body]
    return "\n".join(lines) + "\n"


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def source(method: str) -> str:
    """The knowledge that a method draws on; a combination draws on all of its members'."""
    try:
        return "+".join(dict.fromkeys(member.source for member in members(method).values()))
    except Refusal:  # a method from a file that is not loaded now
        return "other"


def _spread(mean: float, std: float) -> str:
    return f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


def _sure(gain: float, half: float, p: float) -> str:
    return _gain(gain) + ("" if pd.isna(half) else f" ± {half:.2f}") + (" ★" if p < 1 - statistics.LEVEL else "")


def _gain(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.2f}"
