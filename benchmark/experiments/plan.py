"""A grid held against the store: the state that each cell is in, and what the missing ones will take."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from kdbench.benchmark.experiments import lease
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.expectation import Expectation
from kdbench.benchmark.experiments.feasibility import attempt, decisive
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.memory import Outlook, outlook
from kdbench.benchmark.experiments.outline import outdated
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.words import warn
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.methods.method import Needs
from kdbench.refusal import Refusal

OTHER_WEIGHTS = "it learned from other weights than its teacher has by now"


class State(StrEnum):
    FINISHED = "finished"
    OUTDATED = "outdated"  # finished, but its teacher has other weights by now
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
    begun: bool = False  # somebody stopped in the middle of it: it goes on from a checkpoint


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


def plan(grid: Grid, store: Store, retry: str | None = None) -> Plan:
    """``retry``: cells of this state, failed or outdated, are missing too."""
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
    if retry == State.OUTDATED:  # that they, or whoever is to teach them, failed at it once is no reason not to
        again = old | {cell.teacher.id for cell in grid.cells if cell.teacher and cell.id in old}
        failures = {key: failure for key, failure in failures.items() if key not in again}

    def entry(cell: Cell, finished: bool) -> Entry:
        if finished:
            seconds = records[cell.id].seconds
            if cell.id not in old:
                return Entry(cell, State.FINISHED, seconds=seconds)
            failed = f"; trained again, it failed: {failures[cell.id].error}" if cell.id in failures else ""
            return Entry(cell, State.OUTDATED, OTHER_WEIGHTS + failed, seconds)
        if cell.id in store.newer:
            return Entry(cell, State.INVALID, f"{store.newer[cell.id]} holds its record, of a newer kdbench: use that")
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
        return "its weights are not here" if cell.id in records else ""

    # A teacher is finished when its weights are there too, as long as somebody still has to learn from it, and can.
    learners = {cell.id: entry(cell, cell.id in over) for cell in grid.cells if cell.teacher}
    done = (State.FINISHED, State.OUTDATED, State.INVALID)
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
    """A student whose teacher cannot be had is as invalid as its teacher."""
    teacher = student.cell.teacher
    if student.state in (State.FINISHED, State.OUTDATED) or teacher is None or teacher.id not in lost:
        return student
    return Entry(student.cell, State.INVALID, f"its teacher cannot be had: {lost[teacher.id]}")


def to_be_run(grid: Grid, store: Store, retry: str | None = None) -> Plan:
    """The plan of who is about to run it: records that cannot be believed are told of, once, and a grid of which no
    cell can work is refused."""
    made = plan(grid, store, retry)
    warn(store.troubles)
    store.troubles.clear()
    if made.entries and all(entry.state is State.INVALID for entry in made.students):
        raise Refusal(f"{grid.name}: no cell can work: {made.students[0].cell.id}: {made.students[0].reason}")
    return made
