"""All pictures of a board, with their captions."""

import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal, get_args

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from kdbench.benchmark.leaderboard import drawing, evidence, pictures
from kdbench.benchmark.leaderboard.statistics import LEVEL
from kdbench.benchmark.leaderboard.table import Board
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.methods.features.layers import PAIRS
from kdbench.methods.features.quality import K0

FIELDS = 12  # data sets and recipes with pictures
PAINTERS = 2  # processes
Kind = Literal["sources", "gains", "pair", "throughput", "curves", "width", "quality", "tasks"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # a picture's name starts with its kind and a dash
BIRTH = "fork" if sys.platform == "linux" else "spawn"  # a forked process does not repeat the imports


@dataclass(frozen=True)
class Picture:
    name: str  # of its files, without the suffix
    title: str
    caption: str
    svg: str
    png: bytes
    inches: float  # width


Draw = Callable[[], Figure | None]


def album(board: Board, records: Mapping[str, Record], store: Store) -> Iterator[Picture]:
    """The pictures of each data set and recipe, without empty ones.

    Worker processes draw them, so this process can go on meanwhile.
    """
    found: list[tuple[str, str, str, Draw]] = []
    for number, (names, cells, series) in enumerate(evidence.fields(board)[:FIELDS]):
        words = names[1:] if names[0] == "compression" else names
        where, place = " · ".join(words), re.sub(r"[^\w.]+", "-", " ".join(words)).strip("-")[:80]
        if any(name.endswith(f"-{place}") for name, *_ in found):
            place = f"{place}-{number}"
        for kind, title, caption, draw in _sketched(cells, series, records, store):
            found.append((f"{kind}-{place}", title, f"{where}. {caption}", draw))
    deaf = signal.signal, (signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C only this process answers
    painters = ProcessPoolExecutor(PAINTERS, get_context(BIRTH), *deaf)
    drawn = painters.map(_painted, found)
    painters.shutdown(wait=False)  # the workers end when everything is drawn
    return (picture for picture in drawn if picture)


def _painted(sketch: tuple[str, str, str, Draw]) -> Picture | None:
    name, title, caption, draw = sketch
    if (figure := draw()) is None:
        return None
    words = {word for text in figure.findobj(Text) for word in str(text.get_text()).split()}
    if far := [mark for mark in pictures.FAR if mark in words]:
        caption += f" {' '.join(far)}: too far away to draw to scale."
    svg, png = drawing.saved(figure, "svg").decode(), drawing.saved(figure, "png")
    return Picture(name, title, caption, svg, png, figure.get_figwidth())


def of_a_teacher(found: Mapping[str, Any], form: str) -> bytes:
    """The picture of the findings of ``kdbench quality``, as ``svg``, ``png`` or ``pdf``."""
    figure = pictures.knowledge_quality(pd.DataFrame(found["layers"]).assign(teacher=found["teacher"]))
    assert figure is not None  # a teacher has layers
    about = f"{found['teacher']}, top-1 {found['top1']:.2f}, k₀ = {found['k0']:g}"
    figure.suptitle(about, x=0.01, ha="left", fontsize=8)
    return drawing.saved(figure, form)


def _sketched(
    cells: pd.DataFrame, series: pd.DataFrame, records: Mapping[str, Record], store: Store
) -> Iterator[tuple[Kind, str, str, Draw]]:
    """Kind, title, caption and drawing function of each picture."""
    # The incremental setting has no measured speed, and its epochs start again with every task.
    whole = cells["setting"].iloc[0] != "incremental"
    gained, pairs = evidence.gains(cells, series), series["pair"].nunique()
    unit = "pair" if pairs > 1 else "seed"
    of_sources = evidence.matched(gained)
    apart = ", so some runs are left out" if len(of_sources) < len(gained) else ""
    scope = "" if pairs > 1 else " One pair says nothing about other pairs."
    interval = f"The line is the {LEVEL:.0%} t interval of the mean over {unit}s."
    of_the_table = f"The line is the {LEVEL:.0%} interval of the table."
    yield (
        "sources",
        "Gains by source",
        "Gain in top-1 over ce (the same student and seed, trained on labels only) on "
        f"{_units(of_sources, 'source', unit)}. A bar is the mean over a source's methods on one {unit}. The methods "
        f"are the same on each {unit}{apart}. {interval}{scope}",
        partial(pictures.gains_by_source, gained, unit),
    )
    halves = series.groupby("method")["over_ce_half"].first() if pairs == 1 else None  # those of the pair's table
    yield (
        "gains",
        f"Gains over {unit}s",
        f"Gain in top-1 over ce on {_units(gained, 'method', unit)}. A bar is one {unit}. "
        f"{interval if halves is None else of_the_table}"
        f"{_more(gained['method'].nunique(), pictures.ROWS, 'methods')}{scope}",
        partial(pictures.gains, gained, unit, halves),
    )
    if one := evidence.of_one_pair(cells, series):
        pair, own, halves = one
        yield (
            "pair",
            "Gains on one pair",
            f"Gain in top-1 over ce on {pair}, over {_units(own, 'method', 'seed')}. A bar is one seed. "
            f"{of_the_table}"
            f"{_more(own['method'].nunique(), pictures.ROWS, 'methods')} One pair says nothing about other pairs.",
            partial(pictures.gains, own, "seed", halves),
        )
    yield (
        "throughput",
        "Accuracy against throughput",
        "Top-1 after the last epoch, mean over seeds, against the training speed relative to ce, with the teacher run "
        "at every step. The line joins the methods that no other beats in both."
        f"{_more(pairs, drawing.PANELS, 'pairs')}",
        partial(pictures.accuracy_throughput, series.assign(speed=1 / series["relative_cost"] if whole else math.nan)),
    )
    yield (
        "curves",
        "Learning curves",
        "Top-1 on the test set after every epoch, mean over seeds: ce, and the method of each source that gains most. "
        f"The band is ± one standard deviation. The first epochs may be below the picture."
        f"{_more(pairs, drawing.PANELS, 'pairs')}",
        partial(pictures.learning_curves, evidence.curves(cells, series, records if whole else {})),
    )
    yield (
        "width",
        "Width study",
        f"Gain in top-1 over ce for students of one depth and growing width. Bars are the tables' {LEVEL:.0%} t "
        "intervals over seeds.",
        partial(pictures.width_study, evidence.widths(series)),
    )
    yield (
        "quality",
        "Knowledge in a teacher's layers",
        f"Q = S + √(I·E), measured on training images before any distillation (k₀ = {K0:g}). Points mark the "
        f"{PAIRS} layers with the highest Q, which feature_only distils.",
        partial(
            pictures.knowledge_quality,
            evidence.qualities(sorted({name.partition(" #")[0] for name in cells["teacher"]} - {""}), store),
        ),
    )
    yield (
        "tasks",
        "Accuracy task by task",
        "Top-1 over all classes seen so far, after each task, mean over seeds: ce, and the method of each source that "
        f"gains most.{_more(pairs, drawing.PANELS, 'students')}",
        partial(pictures.accuracy_by_task, evidence.tasks(cells, series, records)),
    )


def _units(gains: pd.DataFrame, of: str, unit: str) -> str:
    """The number of units of the rows of a ladder, as text."""
    counts = sorted(set(gains.groupby(of)["unit"].nunique())) or [1]
    if counts == [1]:
        return f"one {unit}, so without an interval"
    return f"{counts[0]} to {counts[-1]} {unit}s" if len(counts) > 1 else f"{counts[0]} {unit}s"


def _more(there_are: int, drawn: int, what: str) -> str:
    return f" {drawn} of {there_are} {what} are drawn." if there_are > drawn else ""
