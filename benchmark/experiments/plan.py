"""A grid held against the store: what is finished, running, failed, missing or invalid, and what that will take."""

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import torch

from kdbench import methods
from kdbench.benchmark import data, networks
from kdbench.benchmark.experiments import lease
from kdbench.benchmark.experiments.cell import IMPORT, Cell
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.memory import Outlook, outlook
from kdbench.benchmark.experiments.outline import Outline, likes
from kdbench.benchmark.experiments.record import Failure
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.words import warn
from kdbench.benchmark.incremental import feasibility
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal


class State(StrEnum):
    FINISHED = "finished"
    RUNNING = "running"
    FAILED = "failed"
    MISSING = "missing"
    INVALID = "invalid"


@dataclass(frozen=True)
class Entry:
    cell: Cell
    state: State
    reason: str = ""
    seconds: float | None = None  # what it took, or is expected to take
    needs: Needs | None = None  # what its method asks of the loop, if it is still to run
    machines: frozenset[str] = frozenset()  # where its likes took the time that it is expected to take


@dataclass(frozen=True)
class Plan:
    """Teachers first: a student is never started before its teacher's record is there."""

    grid: Grid
    teachers: tuple[Entry, ...]
    students: tuple[Entry, ...]
    memories: tuple[Outlook, ...] = ()  # what the teachers of the missing cells remember

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.teachers + self.students

    def counts(self) -> dict[str, int]:
        counted = Counter(entry.state for entry in self.entries)
        return {state.value: counted[state] for state in State}

    def those(self, *states: State) -> list[Entry]:
        return [entry for entry in self.entries if entry.state in states]

    def hours(self) -> tuple[float, int]:
        """Hours that the missing cells will take one after the other, and how many have no measured like."""
        missing = self.those(State.MISSING)
        known = [entry.seconds for entry in missing if entry.seconds is not None]
        return sum(known) / 3600, len(missing) - len(known)


def plan(grid: Grid, store: Store) -> Plan:
    records, failures = store.outlines(), store.failures()
    expected = Expectation(records.values())
    tried: dict[bytes, str | Needs] = {}
    running = {folder.name for folder in (store.folder / "work").glob("*") if lease.held(folder)}

    def entry(cell: Cell, finished: bool) -> Entry:
        if finished:
            return Entry(cell, State.FINISHED, seconds=records[cell.id].seconds)
        decisive = _decisive(cell)
        if decisive not in tried:
            tried[decisive] = attempt(cell)
        needs = tried[decisive]
        if isinstance(needs, str):
            return Entry(cell, State.INVALID, needs)
        if cell.id in running:
            return Entry(cell, State.RUNNING)
        if cell.id in failures:
            return Entry(cell, State.FAILED, failures[cell.id].error)
        because, seconds = _because(cell, failures), expected.seconds(cell)
        return Entry(cell, State.MISSING, because, seconds, needs, expected.machines(cell))

    # A teacher is finished when its weights are there too, as long as somebody still has to learn from it, and can.
    learners = {cell.id: entry(cell, cell.id in records) for cell in grid.cells if cell.teacher}
    done = (State.FINISHED, State.INVALID)
    pupils = {one.cell.teacher.id for one in learners.values() if one.cell.teacher and one.state not in done}
    teachers = [cell for key, cell in grid.teachers.items() if key in pupils or key in records]
    teaching = {teacher.id for teacher in teachers}
    students = [cell for cell in grid.cells if cell.id not in teaching]
    first = [entry(c, c.id in records and (c.id not in pupils or store.weights(c).exists())) for c in teachers]
    lost = {teacher.cell.id: teacher.reason for teacher in first if teacher.state is State.INVALID}
    second = [learners.get(c.id) or entry(c, c.id in records) for c in students]
    taught = tuple(_without(student, lost) for student in second)
    missing = [(entry.cell, entry.needs) for entry in taught if entry.state is State.MISSING and entry.needs]
    return Plan(grid, tuple(first), taught, outlook(missing, store))


def _decisive(cell: Cell) -> bytes:
    """What decides whether a cell can work: all but its seed; a method may refuse a recipe, too."""
    teacher = cell.teacher.student if cell.teacher else None
    setting = (cell.incremental, cell.dataset, teacher, cell.student, cell.world)
    return msgspec.json.encode((setting, cell.method, cell.params, cell.recipe), order="sorted")


def _without(student: Entry, lost: dict[str, str]) -> Entry:
    """A student whose teacher cannot be had is as invalid as its teacher."""
    teacher = student.cell.teacher
    if student.state is State.FINISHED or teacher is None or teacher.id not in lost:
        return student
    return Entry(student.cell, State.INVALID, f"its teacher cannot be had: {lost[teacher.id]}")


def to_be_run(grid: Grid, store: Store) -> Plan:
    """The plan of who is about to run it: records that cannot be believed are told of, once, and a grid of which no
    cell can work is refused."""
    made = plan(grid, store)
    warn(store.troubles)
    store.troubles.clear()
    if made.entries and all(entry.state is State.INVALID for entry in made.students):
        raise Refusal(f"{grid.name}: no cell can work: {made.students[0].cell.id}: {made.students[0].reason}")
    return made


def unworkable(cell: Cell) -> str:
    """Why this cell cannot work, in a sentence; empty where it can."""
    found = attempt(cell)
    return found if isinstance(found, str) else ""


def attempt(cell: Cell) -> Needs | str:
    """What a cell's method needs, or why it cannot work, in a sentence. Built on the meta device, at no cost."""
    if cell.method == IMPORT:
        return "it must be imported first, by 'kdbench teacher import'"
    try:
        needs = feasibility.build(cell) if cell.incremental else _build(cell)
    except Refusal as refusal:
        return str(refusal)
    except Exception as error:  # from a user's own method, as a rule
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    if cell.world > 1 and needs.whole_batch and needs.input_grad:
        return f"it must have world 1, got {cell.world}: it relates images, and differentiates by them"
    return needs


def _build(cell: Cell) -> Needs:
    known = data.source(cell.dataset)
    facts = cell.training.facts(known.classes, torch.arange(known.train) % known.classes)
    student = networks.form(cell.student, known.classes, known.image)
    teacher = networks.form(cell.teacher.student, known.classes, known.image) if cell.teacher else student
    with torch.device("meta"):
        return methods.create(cell.method, student, teacher, facts, **cell.params).needs()


def _because(cell: Cell, failures: dict[str, Failure]) -> str:
    return "its teacher failed" if cell.teacher and cell.teacher.id in failures else ""


class Expectation:
    """How long a cell will take, from records of its like, on whatever machines those were made."""

    def __init__(self, records: Iterable[Outline]) -> None:
        timed: dict[tuple[str, ...], list[Outline]] = {}
        for record in records:
            if record.epochs:
                for like in likes(record):
                    timed.setdefault(like, []).append(record)
        self._epoch = {like: statistics.median(r.seconds / r.epochs for r in alike) for like, alike in timed.items()}
        self._machines = {like: frozenset(record.machine for record in alike) for like, alike in timed.items()}

    def seconds(self, cell: Cell) -> float | None:
        like = self._nearest(cell)
        return self._epoch[like] * cell.training.epochs if like else None

    def machines(self, cell: Cell) -> frozenset[str]:
        like = self._nearest(cell)
        return self._machines[like] if like else frozenset()

    def _nearest(self, cell: Cell) -> tuple[str, ...] | None:
        return next((like for like in likes(cell) if like in self._epoch), None)
