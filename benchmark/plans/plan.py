"""Compares a grid with the store: the state of each cell, and the time that the missing ones need."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from kdbench.benchmark.plans.expectation import Expectation
from kdbench.benchmark.plans.feasibility import attempt, decisive
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.outlook import Outlook, outlook
from kdbench.benchmark.records import lease
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.outline import outdated
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.words import warn
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal

OTHER_WEIGHTS = "its teacher has been retrained since"


class State(StrEnum):
    FINISHED = "finished"
    OUTDATED = "outdated"  # finished, but its teacher has been retrained since, and its weights have changed
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
    needs: Needs | None = None  # what its method needs from the loop, if it is still to run
    machines: frozenset[str] = frozenset()  # those on which its expected time was measured
    begun: bool = False  # it was interrupted, and resumes from a checkpoint


@dataclass(frozen=True)
class Plan:
    """A grid's cells with their states, teachers first. A student never starts before its teacher's record exists."""

    grid: Grid
    teachers: tuple[Entry, ...]
    students: tuple[Entry, ...]
    memories: tuple[Outlook, ...] = ()  # of the missing cells' teachers

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.teachers + self.students

    def counts(self) -> dict[str, int]:
        counted = Counter(entry.state for entry in self.entries)
        return {state.value: counted[state] for state in State}

    def those(self, *states: State) -> list[Entry]:
        return [entry for entry in self.entries if entry.state in states]

    def hours(self) -> tuple[float, int]:
        """Hours that the missing cells take one after the other, and how many cells have no estimate."""
        missing = self.those(State.MISSING)
        known = [entry.seconds for entry in missing if entry.seconds is not None]
        return sum(known) / 3600, len(missing) - len(known)


def plan(grid: Grid, store: Store, retry: str | None = None) -> Plan:
    """The plan of a grid. ``retry``: cells in this state, failed or outdated, count as missing."""
    records, failures = store.outlines(), store.failures()
    expected = Expectation(records.values())
    tried: dict[bytes, str | Needs] = {}
    work = list((store.folder / "work").glob("*"))
    running = {folder.name for folder in work if lease.held(folder)}
    begun = {folder.name for folder in work if Checkpoints(folder).last.exists()}
    old = {cell.id for cell in grid.cells if cell.id in records and outdated(records[cell.id], records)}
    over = records.keys() - (old if retry == State.OUTDATED else old & running)
    if retry == State.FAILED:
        failures = {}
    if retry == State.OUTDATED:  # earlier failures of outdated cells and of their teachers do not count
        again = old | {cell.teacher.id for cell in grid.cells if cell.teacher and cell.id in old}
        failures = {key: failure for key, failure in failures.items() if key not in again}

    def entry(cell: Cell, finished: bool) -> Entry:
        if finished:
            seconds = records[cell.id].seconds
            if cell.id not in old:
                return Entry(cell, State.FINISHED, seconds=seconds)
            failed = f"; retraining this cell failed: {failures[cell.id].error}" if cell.id in failures else ""
            return Entry(cell, State.OUTDATED, OTHER_WEIGHTS + failed, seconds)
        decides = decisive(cell)
        if decides not in tried:
            tried[decides] = attempt(cell)
        needs = tried[decides]
        if isinstance(needs, str):
            return Entry(cell, State.INVALID, needs)
        if cell.id in running:
            return Entry(cell, State.RUNNING)
        if cell.id in failures:
            return Entry(cell, State.FAILED, failures[cell.id].error)
        expects = expected.seconds(cell), needs, expected.machines(cell)
        return Entry(cell, State.MISSING, because(cell), *expects, begun=cell.id in begun)

    def because(cell: Cell) -> str:
        if cell.teacher and cell.teacher.id in failures:
            return "its teacher failed"
        if cell.id in old:
            return OTHER_WEIGHTS
        return "its weights are missing" if cell.id in records else ""

    # While a student still has to be trained by a teacher, and can be, the teacher is finished only with its weights.
    learners = {cell.id: entry(cell, cell.id in over) for cell in grid.cells if cell.teacher}
    done = (State.FINISHED, State.OUTDATED, State.FAILED, State.INVALID)
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


def _without(student: Entry, lost: dict[str, str]) -> Entry:
    """A student whose teacher is invalid is invalid too."""
    teacher = student.cell.teacher
    if student.state in (State.FINISHED, State.OUTDATED) or teacher is None or teacher.id not in lost:
        return student
    return Entry(student.cell, State.INVALID, f"its teacher is invalid: {lost[teacher.id]}")


def to_be_run(grid: Grid, store: Store, retry: str | None = None) -> Plan:
    """The plan for a command that is about to run it. Warns once of damaged records, and refuses a grid in which no
    cell can work."""
    made = plan(grid, store, retry)
    warn(store.troubles)
    store.troubles.clear()
    if made.entries and all(entry.state is State.INVALID for entry in made.students):
        raise Refusal(f"{grid.name}: no cell can work: {made.students[0].cell.id}: {made.students[0].reason}")
    return made
