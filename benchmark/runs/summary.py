"""Describes a plan in words: before a run and during one."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kdbench.benchmark.data import source
from kdbench.benchmark.data.dataset import HELD_OUT
from kdbench.benchmark.plans.outlook import in_words
from kdbench.benchmark.plans.parameters import shown
from kdbench.benchmark.plans.plan import Entry, Plan, State
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.worker import Status
from kdbench.benchmark.words import counted, duration

TOLD = (State.INVALID, State.FAILED, State.OUTDATED)  # shown with the reason


def of_plan(plan: Plan) -> dict[str, Any]:
    hours, unknown = plan.hours()
    return {
        "grid": plan.grid.name,
        "teachers": len(plan.teachers),
        "students": len(plan.students),
        "counts": plan.counts(),
        "hours": round(hours, 4),
        "cells_without_estimate": unknown,
        "timed_on": _timed_on(plan),
        "memories": [msgspec.to_builtins(memory) for memory in plan.memories],
        "cells": [_row(entry) for entry in plan.entries],
    }


def plan_text(plan: Plan) -> str:
    lines = [_headline(plan, plan.counts()), *_told(plan.those(*TOLD))]
    missing = plan.those(State.MISSING)
    lines += _first([f"  to run  {_named(entry.cell)}{_expected(entry)}{_why(entry)}" for entry in missing])
    if missing:
        lines += [*in_words(plan.memories), f"time to run  {time_left(plan)}"]
    return "\n".join(lines)


def absent(plan: Plan, folder: Path) -> list[str]:
    """The missing data sets of missing cells. A run downloads some of them."""
    wanted = sorted({entry.cell.dataset.removesuffix(HELD_OUT) for entry in plan.those(State.MISSING)})
    known = {name: source(name) for name in wanted}
    return [
        f"{name} is missing: no {' or '.join(one.files)} in {folder}"
        for name, one in known.items()
        if one.files and not one.found(folder)
    ]


def left_alone(plan: Plan) -> list[str]:
    """The cells that a run does not touch, and why."""
    advice = ["Failed cells are run again with --retry failed."] if plan.those(State.FAILED) else []
    return _told(plan.those(*TOLD)) + advice


def _told(entries: Sequence[Entry]) -> list[str]:
    told = [(state, [entry for entry in entries if entry.state is state]) for state in TOLD]
    lines = [line for state, alike in told for line in _reasons(alike, state)]
    return [*lines, "Outdated cells are run again with --retry outdated."] if told[-1][1] else lines


def _named(cell: Cell) -> str:
    """A cell's id, with what only the digest shows otherwise: the lines of a sweep would look alike."""
    method = shown(cell.method, cell.params)
    words = [cell.id] if method == cell.method else [cell.id, method]
    words += [str(cell.incremental)] if cell.incremental else []
    words += [f"teacher's seed {cell.teacher.seed}"] if cell.teacher and cell.teacher.seed else []
    return ", ".join(words)


def _reasons(entries: Sequence[Entry], state: State) -> list[str]:
    """Why cells are in this state. For cells with the same method and reason: the first, and how many more."""
    alike: dict[tuple[str, str, str], list[Cell]] = {}
    for entry in entries:
        alike.setdefault((entry.cell.method, str(entry.cell.params), entry.reason), []).append(entry.cell)
    return _first(
        [
            f"  {state}  {_named(cells[0])}{f' and {len(cells) - 1} more like it' if cells[1:] else ''}: {reason}"
            for (*_, reason), cells in alike.items()
        ],
        f" {state}",
    )


def _first(lines: list[str], kind: str = "") -> list[str]:
    """At most twenty lines, and how many more there are."""
    return [*lines[:20], f"  … and {len(lines) - 20} more{kind}"] if len(lines) > 20 else lines


class Sent(NamedTuple):
    """The state of the missing cells that were submitted to a cluster, and of outdated ones that were resubmitted."""

    pending: dict[str, str]  # in the scheduler's queue, with their state there
    lost: dict[str, str]  # no longer in the queue, and without a record


NOWHERE = Sent({}, {})


def of_status(plan: Plan, results: Path, sent: Sent = NOWHERE) -> dict[str, Any]:
    running = [_row(entry) | (msgspec.to_builtins(live(entry, results)) or {}) for entry in plan.those(State.RUNNING)]
    return (
        {"grid": plan.grid.name, "counts": _counts(plan, sent), "running": running}
        | sent._asdict()
        | {str(state): [_row(entry) for entry in _left(plan, sent) if entry.state is state] for state in TOLD}
    )


def status_text(plan: Plan, results: Path, sent: Sent = NOWHERE) -> str:
    lines = [_headline(plan, _counts(plan, sent))]
    for entry in plan.those(State.RUNNING):
        status = live(entry, results)
        if status is None:
            lines.append(f"  running  {entry.cell.id}: starting")
        else:
            left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
            lines.append(f"  running  {entry.cell.id}: {_place(status)}{left}")
    stopped = [entry for entry in plan.those(State.MISSING) if entry.begun and entry.cell.id not in sent.pending]
    places = [(entry.cell.id, status) for entry in stopped if (status := live(entry, results))]
    lines += _first([f"  stopped  {cell_id}: {_place(status)}" for cell_id, status in places], " stopped")
    for name, cells in sent._asdict().items():
        lines += _first([f"  {name}  {cell_id}: {why}" for cell_id, why in cells.items()], f" {name}")
    lines += _told(_left(plan, sent))
    if plan.those(State.FAILED):
        lines.append(f"Failures in full: {results / 'failures'}/; run them again with --retry failed.")
    return "\n".join(lines)


def _place(status: Status) -> str:
    phase = "" if status.phase == "main" else f"{status.phase}, "
    return f"{phase}epoch {status.epoch} of {status.epochs}"


def _left(plan: Plan, sent: Sent) -> list[Entry]:
    """The cells that are shown with the reason, except those that a job will run again."""
    return [entry for entry in plan.those(*TOLD) if entry.cell.id not in sent.pending]


def live(entry: Entry, results: Path) -> Status | None:
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((Store(results).work(entry.cell.id) / "status.json").read_bytes(), type=Status)
    return None


def time_left(plan: Plan) -> str:
    hours, unknown = plan.hours()
    missing = len(plan.those(State.MISSING))
    if not missing:
        return "running elsewhere already"
    if unknown == missing:
        return f"{counted(missing, 'cell')} of unmeasured length"
    serial = " one after the other" if missing > 1 else ""
    rest = f", and {counted(unknown, 'cell')} of unmeasured length" if unknown else ""
    return f"about {duration(hours * 3600)}{serial}{_as_on(plan)}{rest}"


def _as_on(plan: Plan) -> str:
    """The machine of the measured times: a plan is often made on another one."""
    machines = _timed_on(plan)
    others = f" and {counted(len(machines) - 1, 'other machine')}" if machines[1:] else ""
    return f", as on {machines[0]}{others}" if machines else ""


def _timed_on(plan: Plan) -> list[str]:
    """The machines of the measured times, those of most cells first."""
    counts = Counter(machine for entry in plan.those(State.MISSING) for machine in sorted(entry.machines) if machine)
    return [machine for machine, _ in counts.most_common()]


def _counts(plan: Plan, sent: Sent) -> dict[str, int]:
    counts = plan.counts() | {name: len(cells) for name, cells in sent._asdict().items()}
    for entry in plan.those(State.MISSING, State.OUTDATED):
        counts[entry.state] -= entry.cell.id in sent.pending or entry.cell.id in sent.lost
    return counts


def _headline(plan: Plan, counts: dict[str, int]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    cells, teachers = counted(len(plan.students), "cell"), counted(len(plan.teachers), "teacher")
    return f"{plan.grid.name}: {cells} and {teachers}: {states}"


def _expected(entry: Entry) -> str:
    return "" if entry.seconds is None else f" (about {duration(entry.seconds)})"


def _why(entry: Entry) -> str:
    begun = "resumes from its checkpoint" if entry.begun else ""
    words = "; ".join(filter(None, (entry.reason, begun)))
    return f": {words}" if words else ""


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.cell.id,
        "state": str(entry.state),
        "reason": entry.reason,
        "seconds": entry.seconds,
        "begun": entry.begun,
    }
