"""Records as rows, one for each cell, with the references on the same seeds: the basis of tables and pictures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pandas as pd

from kdbench import methods
from kdbench.benchmark.leaderboard.task import REFERENCES, Tasks
from kdbench.benchmark.plans.parameters import shown
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.benchmark.records.record import Brief, Failure
from kdbench.benchmark.throughput.record import measured

SECTION = ["setting", "dataset", "recipe", "pair"]  # runs in one section may be compared
SERIES = [*SECTION, "source", "method"]
NOTHING = float("nan")


def frame(records: Iterable[Brief]) -> pd.DataFrame:
    """One row for each cell, without teachers. ``over ce`` and ``over kd`` are gains on the same seed, in points.

    A student without a teacher is repeated for every teacher that the same student has had. Cells that differ only in
    seeds share ``series``. Cells that may be compared share ``task``. Teachers that differ only in seeds share
    ``lineage``.
    """
    cells = _rows(list(records))
    if cells.empty:
        return cells
    alone, taught = cells[cells["teacher"] == ""], cells[cells["teacher"] != ""]
    pairs = taught[["task", "lineage", "pair"]].drop_duplicates()
    beside = pairs.merge(alone.drop(columns=["lineage", "pair"]), on="task")
    # Teachers are not a result of their own. A student without any teacher has its own section.
    teaches = alone["id"].isin(taught["teacher"]).groupby(alone["series"]).transform("all")
    others = alone[~alone["task"].isin(pairs["task"]) & ~teaches]
    cells = pd.concat([taught, beside[cells.columns], others], ignore_index=True)
    # A teacher cell trained in two environments is two teachers: no gain crosses them.
    cells["teacher"] = _distinct(cells, "teacher", "teacher_weights", within=["task"])

    for reference in REFERENCES:
        cells[f"over {reference}"] = cells["top1"] - _reference(cells, reference)
    cells["recipe"] = _distinct(cells, "recipe", "task", within=["setting", "dataset", "pair"])
    cells["pair"] = _distinct(cells, "pair", "lineage", within=["setting", "dataset", "recipe"])
    cells["method"] = _distinct(cells, "method", "series", within=SECTION)
    return cells


def failures(found: Iterable[Failure]) -> pd.DataFrame:
    """One row for each failed run that still has no record."""
    rows = [_shared(one.cell) | {"id": one.id, "seed": one.cell.seed, "error": one.error} for one in found]
    rows.sort(key=lambda row: str(row["id"]))
    return pd.DataFrame(rows)


def _rows(records: Sequence[Brief]) -> pd.DataFrame:
    tasks = Tasks(records)
    known: dict[tuple[bytes, str], dict[str, str]] = {}  # by series and version of the data, which many cells share
    teachers: dict[bytes, str] = {}  # their ids
    rows: list[dict[str, Any]] = []
    for record in records:
        cell, result, cost, where = record.cell, record.result, record.cost, record.environment
        if cell.method == IMPORT:  # nothing was trained here
            continue
        lineage = cell.teacher and msgspec.structs.replace(cell.teacher, seed=0)
        series = msgspec.structs.replace(cell, seed=0, teacher=lineage)
        if (key := (msgspec.json.encode(series), version := tasks.version(record))) not in known:
            named = {"task": tasks.of(series, version), "recipe": tasks.recipe(series, version)}
            known[key] = _shared(series) | named
        if (asked := msgspec.json.encode(cell.teacher)) not in teachers:
            teachers[asked] = cell.teacher.id if cell.teacher else ""
        learned = result.incremental or {}
        # Time and memory of cells that took turns, or read their teacher from memory, are not the cost of a method.
        own = cost.together == 1 and where.arithmetic.get("teacher") != "remembered"
        rows.append(
            {
                "id": record.id,
                **known[key],
                "teacher": teachers[asked],
                "teacher_weights": result.teacher_weights or "",
                "teacher_top1": NOTHING if result.teacher_top1 is None else result.teacher_top1,
                "seed": cell.seed,
                "top1": result.top1,
                "best": result.best_top1,
                "average": learned.get("average", NOTHING),
                "forgetting": learned.get("forgetting", NOTHING),
                "backward": learned.get("backward_transfer", NOTHING),
                "seconds": cost.seconds if own else NOTHING,
                "speed": cost.images_per_second if own else NOTHING,
                "memory": cost.peak_memory_mb if own else NOTHING,
                "deployed": cost.deployed_parameters,
                "discarded": cost.method_parameters,
                "environment": environment(where.key, where.machine) if own else None,
                "key": where.key,
                "processor": where.machine.get("gpu") or where.machine.get("cpu"),
            }
        )
    rows.sort(key=lambda row: str(row["id"]))  # independent of the order of records
    return pd.DataFrame(rows)


def _shared(series: Cell) -> dict[str, str]:
    """The values shared by all cells that differ only in seeds."""
    return {
        "lineage": series.teacher.id if series.teacher else "",
        "measured": measured(series).id,
        "series": series.id,
        "setting": series.setting,
        "dataset": series.dataset,
        "recipe": series.protocol,
        "pair": series.place,
        "source": methods.sources(series.method, series.params),
        "method": shown(series.method, series.params),
    }


def environment(key: str, machine: Mapping[str, Any]) -> str:
    """The environment in which speeds may be compared: one key on one kind of machine."""
    device = machine.get("gpu") or machine.get("cpu")
    return f"{device} · {key}" if device else key


def _reference(cells: pd.DataFrame, name: str) -> pd.Series:
    """Top-1 of the reference with the same teacher and seed, or its mean over teachers if only one of the two has one.

    Missing for the reference itself, and if it is there twice, which would be ambiguous.
    """
    same_seed = ["task", "lineage", "seed"]
    same_teacher = [*same_seed, "teacher"]
    base = cells.loc[cells["method"] == name, [*same_teacher, "top1"]].rename(columns={"top1": name})
    base = base[~base.duplicated(same_teacher, keep=False)]
    found = cells.join(base.groupby(same_seed)[name].mean(), on=same_seed)[name]
    if name != "ce":  # ce has no teacher
        taught = cells.join(base.set_index(same_teacher)[name], on=same_teacher)[name]
        found = found.where(cells["teacher"] == "", taught)
    return found.mask(cells["method"] == name)


def _distinct(cells: pd.DataFrame, name: str, id: str, within: list[str]) -> pd.Series:
    """The names, with a piece of the digest added to names that stand for several things."""
    several = cells.groupby([*within, name])[id].transform("nunique") > 1
    return cells[name].mask(several, cells[name] + " #" + cells[id].str[-6:])
