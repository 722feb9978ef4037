"""From records to rows: one a cell, beside the references on the same seeds. Tables and pictures are made of these."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pandas as pd

from kdbench import methods
from kdbench.benchmark.experiments.cell import IMPORT, Cell
from kdbench.benchmark.experiments.parameters import shown
from kdbench.benchmark.experiments.record import Brief, Failure
from kdbench.benchmark.leaderboard.task import REFERENCES, Tasks

SECTION = ["setting", "dataset", "recipe", "pair"]  # what stands in one section may be compared
SERIES = [*SECTION, "source", "method"]
NOTHING = float("nan")


def frame(records: Iterable[Brief]) -> pd.DataFrame:
    """A row a cell, teachers aside; a student without a teacher stands beside every teacher that the same student has
    had. ``over ce`` and ``over kd`` are gains on the same seed, in points.

    ``series`` is shared by cells that differ in nothing but seeds, ``task`` by all that may be compared, ``lineage`` by
    teachers that differ in nothing but their seeds.
    """
    cells = _rows(list(records))
    if cells.empty:
        return cells
    alone, taught = cells[cells["teacher"] == ""], cells[cells["teacher"] != ""]
    pairs = taught[["task", "lineage", "pair"]].drop_duplicates()
    beside = pairs.merge(alone.drop(columns=["lineage", "pair"]), on="task")
    # Who teaches is not a result of its own; who has no teacher at all stands under its own name.
    others = alone[~alone["task"].isin(pairs["task"]) & ~alone["id"].isin(taught["teacher"])]
    cells = pd.concat([taught, beside[cells.columns], others], ignore_index=True)
    # A cell that was trained in two environments is two teachers: no gain is taken from one to the other.
    cells["teacher"] = _distinct(cells, "teacher", "teacher_weights", within=["task"])

    for reference in REFERENCES:
        cells[f"over {reference}"] = cells["top1"] - _reference(cells, reference)
    cells["recipe"] = _distinct(cells, "recipe", "task", within=["setting", "dataset", "pair"])
    cells["pair"] = _distinct(cells, "pair", "lineage", within=["setting", "dataset", "recipe"])
    cells["method"] = _distinct(cells, "method", "series", within=SECTION)
    return cells


def failures(found: Iterable[Failure]) -> pd.DataFrame:
    """A row a run that failed, and has no record since."""
    rows = [_shared(one.cell) | {"id": one.id, "seed": one.cell.seed, "error": one.error} for one in found]
    rows.sort(key=lambda row: str(row["id"]))
    return pd.DataFrame(rows)


def _rows(records: Sequence[Brief]) -> pd.DataFrame:
    tasks = Tasks(records)
    known: dict[bytes, dict[str, str]] = {}  # of the few series that many cells are of
    teachers: dict[bytes, str] = {}  # their ids
    rows: list[dict[str, Any]] = []
    for record in records:
        cell, result, cost, where = record.cell, record.result, record.cost, record.environment
        if cell.method == IMPORT:  # nothing was learned here
            continue
        lineage = cell.teacher and msgspec.structs.replace(cell.teacher, seed=0)
        series = msgspec.structs.replace(cell, seed=0, teacher=lineage)
        if (key := msgspec.json.encode(series)) not in known:
            known[key] = {"task": tasks.of(series)} | _shared(series)
        if (asked := msgspec.json.encode(cell.teacher)) not in teachers:
            teachers[asked] = cell.teacher.id if cell.teacher else ""
        learned = result.incremental or {}
        # Of cells that took turns, or heard their teacher from memory, time and space do not say what a method costs.
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
            }
        )
    rows.sort(key=lambda row: str(row["id"]))  # in whatever order the records came
    return pd.DataFrame(rows)


def _shared(series: Cell) -> dict[str, str]:
    """What is the same for all cells that differ in nothing but seeds."""
    return {
        "lineage": series.teacher.id if series.teacher else "",
        "series": series.id,
        "setting": series.setting,
        "dataset": series.dataset,
        "recipe": series.protocol,
        "pair": series.pair + (f", {series.incremental}" if series.incremental else ""),
        "source": methods.sources(series.method, series.params),
        "method": shown(series.method, series.params),
    }


def environment(key: str, machine: Mapping[str, Any]) -> str:
    """Where speeds may be compared: one key on one kind of machine."""
    device = machine.get("gpu") or machine.get("cpu")
    return f"{device} · {key}" if device else key


def _reference(cells: pd.DataFrame, name: str) -> pd.Series:
    """What the reference came to with the same teacher and seed; over all teachers where only one of the two has one.
    Nothing for the reference itself, nor where it stands twice: which would be meant?"""
    same_seed = ["task", "lineage", "seed"]
    same_teacher = [*same_seed, "teacher"]
    base = cells.loc[cells["method"] == name, [*same_teacher, "top1"]].rename(columns={"top1": name})
    base = base[~base.duplicated(same_teacher, keep=False)]
    found = cells.join(base.groupby(same_seed)[name].mean(), on=same_seed)[name]
    if name != "ce":  # which has no teacher
        taught = cells.join(base.set_index(same_teacher)[name], on=same_teacher)[name]
        found = found.where(cells["teacher"] == "", taught)
    return found.mask(cells["method"] == name)


def _distinct(cells: pd.DataFrame, name: str, id: str, within: list[str]) -> pd.Series:
    """A name that stands for several things is followed by a piece of each one's digest."""
    several = cells.groupby([*within, name])[id].transform("nunique") > 1
    return cells[name].mask(several, cells[name] + " #" + cells[id].str[-6:])
