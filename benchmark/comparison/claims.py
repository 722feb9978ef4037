"""Statements that papers make without a number, tested on the records."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, linear_regression, stdev
from typing import Any, Literal, NamedTuple

import msgspec
import pandas as pd
from scipy import stats

from kdbench.benchmark import networks
from kdbench.benchmark.comparison.published import FOLDER, papers
from kdbench.benchmark.data import source
from kdbench.benchmark.document import read
from kdbench.benchmark.leaderboard.report import Column, Report, chance, plain, spread
from kdbench.benchmark.leaderboard.statistics import LEVEL, NOISE, SAMPLE, holm
from kdbench.benchmark.leaderboard.task import Tasks
from kdbench.benchmark.plans.parameters import complete, shown
from kdbench.benchmark.records.record import Brief
from kdbench.benchmark.words import counted
from kdbench.refusal import Refusal

Form = str | dict[str, dict[str, Any]]
Seed = tuple[str, int]  # a training of the teacher, and the student's seed


class Pair(NamedTuple):
    """Shared by all runs that may be compared."""

    dataset: str
    name: str  # in tables
    student: str
    lineage: str  # the teacher's id, without its seed
    task: str


Gains = dict[Pair, dict[Seed, float]]


class Run(NamedTuple):
    """The part of a record that claims need."""

    setting: str
    recipe: str
    pair: Pair
    seed: Seed
    method: str  # its name in tables
    alone: bool  # trained on labels only
    top1: float
    teacher_top1: float | None

    @classmethod
    def of(cls, record: Brief, tasks: Tasks) -> "Run":
        cell, result = record.cell, record.result
        recipe, name = tasks.recipe(cell, tasks.version(record)), shown(cell.method, cell.params)
        alone = cell.method == "ce" and result.teacher_top1 is None
        place = _place(record, tasks)
        return cls(cell.setting, recipe, *place, name, alone, result.top1, result.teacher_top1)


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The claim that ``better`` gains over ``worse``; with ``grows_with``, that the gain grows."""

    says: str
    paper: str
    better: Form | list[Form]
    worse: Form | list[Form]
    setting: Literal["compression", "incremental"] = "compression"
    recipe: str = ""
    students: list[str] = []
    grows_with: Literal["", "embedding width"] = ""
    grid: str = ""
    mind: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class Row:
    """The test of a claim with one recipe on one data set."""

    claim: str
    paper: str
    better: str
    worse: str
    setting: str
    dataset: str
    recipe: str
    verdict: str
    note: str
    pairs: int = 0
    pair: str = ""  # its name, if there is one
    runs: int = 0  # gains on the same seeds, over all pairs
    unit: str = ""  # of the interval: pairs or seeds
    gain: float | None = None
    half: float | None = None
    p: float | None = None  # that chance makes a gain as far from zero


def claims() -> list[Claim]:
    return read(FOLDER / "claims.yaml").convert(list[Claim])


def weigh(claim: Claim, runs: Sequence[Run]) -> list[Row]:
    """A row for each data set and recipe with runs of both sides, and for each pair if there are only two. Without
    such runs, one row that says what is missing."""
    about: dict[str, Any] = {"claim": claim.says, "paper": claim.paper, "setting": claim.setting}
    sides = {"better": _names(claim.better), "worse": _names(claim.worse)}
    evidence = {} if claim.lacks else _gains(claim, sides, runs)
    rows = []
    for (dataset, recipe), (better, worse, found) in sorted(evidence.items()):
        for gains in _by_row(claim, found):
            unit, values, note = _slopes(gains) if claim.grows_with else _by_pair(gains)
            gain, half, p = interval(values)
            notes = [claim.mind] if claim.mind else []
            notes += [f"the paper's recipe is {claim.recipe}"] if claim.recipe not in ("", recipe) else []
            notes += [note] if note else []
            if claim.setting == "incremental":
                notes.append("here a pair is a sequence of tasks")
            if weak := _weak(gains, runs):
                notes.append(f"on {weak} the teacher is no better than the student trained on labels only")
            count = sum(len(of_pair) for of_pair in gains.values())
            rows.append(
                Row(
                    **about,
                    better=better,
                    worse=worse,
                    dataset=dataset,
                    recipe=recipe,
                    verdict=_verdict(gain, p),
                    note="; ".join(notes),
                    pairs=len(gains),
                    pair=next(iter(gains)).name if len(gains) == 1 else "",
                    runs=count,
                    unit=unit,
                    gain=gain,
                    half=half,
                    p=p,
                )
            )
    missing = claim.lacks or "no seed has runs of both" + (f": run the grid {claim.grid}" if claim.grid else "")
    either: dict[str, Any] = {side: " or ".join(names) for side, names in sides.items()}
    return rows or [Row(**about, **either, dataset="", recipe=claim.recipe, verdict="not tested", note=missing)]


def runs_of(records: Iterable[Brief]) -> list[Run]:
    """The records as runs, computed once for all claims."""
    records = sorted(records, key=lambda record: record.id)
    tasks = Tasks(records)
    return [Run.of(record, tasks) for record in records]


def _place(record: Brief, tasks: Tasks) -> tuple[Pair, Seed]:
    cell, teacher = record.cell, record.cell.teacher
    lineage = msgspec.structs.replace(teacher, seed=0).id if teacher else ""
    return Pair(cell.dataset, cell.place, cell.student, lineage, tasks.of(cell, tasks.version(record))), (
        f"{teacher.id} {record.result.teacher_weights}" if teacher else "",
        cell.seed,
    )


# -- evidence ---------------------------------------------------------------------------------------------------------


def _gains(
    claim: Claim, sides: dict[str, list[str]], runs: Sequence[Run]
) -> dict[tuple[str, str], tuple[str, str, Gains]]:
    """By data set and recipe: the gains on each pair, with the same teacher and seed.

    If a method has several forms, only the form that ran on most pairs is used: a row compares two methods.
    """
    found: dict[tuple[str, Pair, Seed], dict[str, float]] = {}
    for run in runs:
        if run.setting == claim.setting and (not claim.students or run.pair.student in claim.students):
            found.setdefault((run.recipe, run.pair, run.seed), {})[run.method] = run.top1
    gains: dict[tuple[str, str], dict[tuple[str, str], Gains]] = {}
    for forms in product(sides["better"], sides["worse"]):
        for (recipe, pair, seed), of_methods in found.items():
            if of_methods.keys() >= set(forms):
                ahead = of_methods[forms[0]] - of_methods[forms[1]]
                of_field = gains.setdefault((pair.dataset, recipe), {})
                of_field.setdefault(forms, {}).setdefault(pair, {})[seed] = ahead
    evidence = {}
    for field, of_forms in gains.items():
        if claim.grows_with:
            of_forms = {forms: _over_widths(found_on) for forms, found_on in of_forms.items()}
        forms = max(of_forms, key=lambda forms: len(of_forms[forms]))
        evidence[field] = (*forms, of_forms[forms])
    return evidence


def _by_row(claim: Claim, gains: Gains) -> list[Gains]:
    """Pairs that share a row. Too few to be a sample have a row each."""
    if len(gains) < SAMPLE and not claim.grows_with:
        return [{pair: gains[pair]} for pair in sorted(gains)]
    return [gains] if gains else []


def _over_widths(gains: Gains) -> Gains:
    """The gains whose seed ran at three widths or more."""
    widths: dict[Seed, set[int]] = {}
    gains = {pair: runs for pair, runs in gains.items() if _width(pair)}
    for pair, runs in gains.items():
        for seed in runs:
            widths.setdefault(seed, set()).add(_width(pair))
    wide = {pair: {seed: gain for seed, gain in runs.items() if len(widths[seed]) > 2} for pair, runs in gains.items()}
    return {pair: runs for pair, runs in wide.items() if runs}


def _width(pair: Pair) -> int:
    """The width of the student's embedding; 0 if the network or the data set is not available here."""
    try:
        known = source(pair.dataset)
        return networks.form(pair.student, known.classes, known.image).embedding_width
    except Refusal:
        return 0


def _weak(pairs: Iterable[Pair], runs: Sequence[Run]) -> str:
    """The number of pairs with a weak teacher, as text; empty if there is none."""
    alone: dict[str, list[float]] = {}
    teachers: dict[Pair, dict[str, float]] = {pair: {} for pair in pairs}
    for run in runs:
        if run.pair in teachers and run.teacher_top1 is not None:
            teachers[run.pair][run.seed[0]] = run.teacher_top1
        elif run.alone:
            alone.setdefault(run.pair.task, []).append(run.top1)
    known = [pair for pair in teachers if teachers[pair] and pair.task in alone]
    weak = [pair for pair in known if fmean(teachers[pair].values()) <= fmean(alone[pair.task])]
    return counted(len(weak), "pair") if weak else ""


def _by_pair(gains: Gains) -> tuple[str, list[float], str]:
    """Unit, values and note of a mean gain.

    The unit is the pair, each with its mean gain. It is the seed if there is one pair, or if the interval over the
    seeds that all pairs have is wider: what a seed does to all pairs alike does not show in the scatter of pairs.
    """
    if len(gains) == 1:
        (runs,) = gains.values()
        return "seeds", list(_by_seed(runs).values()), "one pair says nothing about other pairs"
    teachers = len({pair.lineage for pair in gains})
    note = "pairs that share a teacher are not independent" if teachers < len(gains) else ""
    of_pairs = [_by_seed(runs) for runs in gains.values()]
    by_pair = [fmean(seeds.values()) for seeds in of_pairs]
    common = set.intersection(*(set(seeds) for seeds in of_pairs))
    by_seed = [fmean(seeds[seed] for seeds in of_pairs) for seed in sorted(common)]
    if by_seed and (interval(by_seed)[1] or 0.0) > (interval(by_pair)[1] or 0.0):
        moved = fmean(by_pair) - fmean(by_seed)  # not 0 if some seeds ran on some pairs only
        return "seeds", [gain + moved for gain in by_seed], note
    return "pairs", by_pair, note


def _slopes(gains: Gains) -> tuple[str, list[float], str]:
    """For each seed, the points that the gain grows by when the student's embedding becomes twice as wide."""
    of_seeds: dict[Seed, list[tuple[float, float]]] = {}
    for pair, runs in gains.items():
        for seed, gain in runs.items():
            of_seeds.setdefault(seed, []).append((math.log2(_width(pair)), gain))
    slopes = {seed: linear_regression(*zip(*points, strict=True)).slope for seed, points in sorted(of_seeds.items())}
    teachers = counted(len({teacher for teacher, _ in slopes}), "teacher")
    return (
        "seeds",
        list(_by_seed(slopes).values()),
        f"points per doubling of the width, over three widths or more; {teachers}",
    )


def _by_seed(found: dict[Seed, float]) -> dict[int, float]:
    """The value of each student seed: its mean over teachers, as in the tables."""
    seeds: dict[int, list[float]] = {}
    for (_, seed), value in found.items():
        seeds.setdefault(seed, []).append(value)
    return {seed: fmean(values) for seed, values in seeds.items()}


# -- verdicts ---------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, half of its t interval, and the p-value of its t test.

    A single value and equal values have only a mean: their scatter is unknown.
    """
    n = len(values)
    deviation = stdev(values) if n > 1 else 0.0
    if deviation < NOISE:
        return fmean(values), None, None
    found = stats.ttest_1samp(values, 0)
    return fmean(values), float(found.confidence_interval(LEVEL).high) - fmean(values), float(found.pvalue)


def corrected(rows: Sequence[Row]) -> list[Row]:
    """Correct p and verdicts over all claims: among many tests, some intervals exclude zero by chance."""
    among = holm(pd.Series([row.p for row in rows], dtype=float)).astype(object)
    return [
        row if row.p is None else replace(row, p=p, verdict=_verdict(row.gain or 0.0, row.p, p))
        for row, p in zip(rows, among, strict=True)
    ]


def _verdict(gain: float, p: float | None, among: float | None = None) -> str:
    """``among`` is p corrected over the tests of all claims."""
    if p is None or p >= 1 - LEVEL:
        return "undecided"
    if among is not None and among >= 1 - LEVEL:
        return "leans to it" if gain > 0 else "leans against it"
    return "supported" if gain > 0 else "contradicted"


def _names(forms: Form | list[Form]) -> list[str]:
    """Their names in tables. A form that is not registered has no name, and so no evidence."""
    listed = forms if isinstance(forms, list) else [forms]
    entries = [(form, {}) if isinstance(form, str) else next(iter(form.items())) for form in listed]
    return [shown(name, complete(name, params)) for name, params in entries]


# -- report -----------------------------------------------------------------------------------------------------------

ABOUT = (
    "Statements from papers, tested on our records. A gain is the better method minus the worse, with the same teacher "
    f"and the same seed, in points of top-1 after the last epoch. ± is half of its {LEVEL:.0%} t interval. With three "
    "pairs or more, its unit is the pair, or the seed (over the seeds that all pairs have) if that interval is wider. "
    "One or two pairs have a row each, whose unit is the seed: an interval over two pairs excludes next to nothing. A "
    "seed counts once, by its mean over teachers. For a slope, the unit is the seed, and the interval is for these "
    "pairs only. p is that of the t test, corrected by Holm over all rows. "
    f"*supported*, *contradicted*: p is below {1 - LEVEL:.2f}. *leans*: only the interval, which is not corrected, "
    "excludes zero. Among so many rows, that is too little."
)


def report(records: Iterable[Brief]) -> Report:
    runs, known = runs_of(records), claims()
    rows = [plain(row) for row in corrected([row for claim in known for row in weigh(claim, runs)])]
    cited = [f"- {name}: {papers()[name].paper}" for name in dict.fromkeys(claim.paper for claim in known)]
    return Report("claims", "Claims", ABOUT, rows, COLUMNS, "\n".join(cited))


COLUMNS: dict[str, Column] = {
    "claim": lambda row: row["claim"],
    "paper": lambda row: row["paper"],
    "data set": lambda row: row["dataset"] or "–",
    "recipe": lambda row: row["recipe"] or "–",
    "pairs": lambda row: row["pair"] or str(row["pairs"]),
    "runs": lambda row: str(row["runs"]),
    "gain": lambda row: spread(row["gain"], row["half"], "+"),
    "unit": lambda row: row["unit"] or "–",
    "p": lambda row: "–" if row["p"] is None else chance(row["p"]),
    "verdict": lambda row: row["verdict"],
    "note": lambda row: row["note"],
}
