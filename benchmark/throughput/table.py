"""A page of tables for the records of one environment. It depends on these records only."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from kdbench import methods
from kdbench.benchmark.plans.parameters import shown
from kdbench.benchmark.records.record import Environment
from kdbench.benchmark.throughput.record import Throughput, folder
from kdbench.benchmark.words import markdown_table
from kdbench.methods.method import SOURCES

ABOUT = (
    "Costs are times of a step of the main phase in a steady state, as multiples of a step on labels only that was "
    "timed in turn with it. *live*: the teacher runs at every step. *cold*: its answers are kept in its memory (a "
    "cache), which is still empty; – if an epoch is too short to see that. *remembered*: all answers are in the "
    "memory; – if they cannot be kept. *amortised*: the mean over a run of the recipe's epochs that starts with an "
    "empty memory. *initial*: the phases before the main one, spread over its steps, on top of the other costs. "
    "*images/s*, *ms/step* and *memory* are live. Rows were measured one after the other: on a machine that others use "
    "too, compare by cost. *memory*: the peak; on a CPU, of the whole process. *adapters*: parameters that are "
    "discarded after training. Layers that a method would choose by looking at its trained teacher are here the "
    "teacher's last. *of peak*: the operations of the two networks, without those of the method, as a share of the "
    "highest rate that the device reached in a large matrix product or a wide convolution."
)
PACES = ["live", "cold", "remembered", "amortised", "initial"]
COLUMNS = ["source", "method", *PACES, "images/s", "ms/step", "memory", "adapters", "of peak"]
ALIGN = ("left", "left", *["right"] * (len(COLUMNS) - 2))

Task = tuple[str, str, int, str]  # shared by records that are compared, except for the pair


def pages(records: Iterable[Throughput]) -> dict[str, str]:
    """A page for each environment, by its key: speeds of two environments do not compare."""
    alike: dict[str, list[Throughput]] = {}
    for record in records:
        alike.setdefault(record.environment.key, []).append(record)
    return {key: page(alike[key]) for key in sorted(alike)}


def tables(records: Iterable[Throughput], results: Path) -> dict[Path, bytes]:
    """The pages as files next to the records."""
    return {folder(results) / key / "throughput.md": text.encode() for key, text in pages(records).items()}


def page(records: Iterable[Throughput]) -> str:
    """The page of one environment. A student without a teacher is repeated for every teacher that it has had."""
    ordered = sorted(records, key=lambda record: record.id)
    peaks: dict[str, float] = {}  # the best measurement in each precision
    for record in ordered:
        peaks[record.precision] = max(record.peak_tflops, peaks.get(record.precision, 0.0))
    sections: dict[tuple[Task, str], list[Throughput]] = {}
    for record in ordered:
        sections.setdefault((_task(record), record.pair), []).append(record)
    lines = ["# Throughput", "", ABOUT]
    if ordered:
        lines += ["", _where(ordered[0].environment, peaks)]
    for (task, pair), members in sorted(sections.items()):
        student = members[0].student
        alone = [] if pair == student else sections.get((task, student), [])
        if pair == student and any(of == task and other.endswith(f" → {student}") for of, other in sections):
            continue
        dataset, recipe, batch, precision = task
        lines += ["", f"## {dataset} · {pair} · {recipe} · batch {batch} · {precision}", ""]
        lines.append(_table(alone + members, peaks[precision]))
    return "\n".join(lines) + "\n"


def _task(record: Throughput) -> Task:
    return record.dataset, record.recipe, record.batch, record.precision


def _where(environment: Environment, peaks: dict[str, float]) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in sorted(environment.arithmetic.items()))
    rates = ", ".join(f"{tflops:.3g} TFLOP/s in {precision}" for precision, tflops in sorted(peaks.items()))
    return f"Environment {environment.key}: {facts}. Peak: {rates}."


def _table(members: list[Throughput], peak: float) -> str:
    rows = [_row(member, peak) for member in sorted(members, key=_place)]
    return markdown_table(pd.DataFrame(rows, columns=COLUMNS), ALIGN)


def _place(record: Throughput) -> tuple[int, str, str]:
    """Sort key: the order of sources, then the cheapest first."""
    knowledge = methods.sources(record.method, record.params)
    rank = [*SOURCES, knowledge].index(knowledge)
    return rank, knowledge, f"{record.live.cost:020.4f}"


def _row(record: Throughput, peak: float) -> list[str]:
    return [
        methods.sources(record.method, record.params),
        shown(record.method, record.params),
        *(_cost(pace.cost if pace else None) for pace in (record.live, record.cold, record.remembered)),
        _cost(record.amortised()),
        _cost(record.initial or None),
        f"{record.live.images_per_second:,.0f}",
        f"{record.live.step_ms:.1f}",
        f"{record.live.peak_memory_mb:,.0f} MB",
        f"{record.method_parameters:,}",
        f"{record.live.tflops / peak:.0%}",
    ]


def _cost(cost: float | None) -> str:
    return "–" if cost is None else f"{cost:.2f}"
