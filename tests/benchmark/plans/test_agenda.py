"""Which cell may start: none before its teacher, none twice, none whose teacher will never be there."""

from collections.abc import Callable
from typing import Any

import pytest

from kdbench.benchmark.plans import agenda as agenda_module
from kdbench.benchmark.plans.agenda import ASK_AGAIN, Agenda
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import Entry, Plan, State
from kdbench.benchmark.records.cell import Cell

Make = Callable[..., Any]
MakeAgenda = Callable[..., Agenda]


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(agenda_module, "time", clock)
    return clock


@pytest.fixture
def teachers(make_cell: Make) -> list[Cell]:
    return [make_cell(student="resnet8", seed=seed) for seed in range(2)]


@pytest.fixture
def students(make_cell: Make, teachers: list[Cell]) -> list[Cell]:
    """Two of each teacher, and one without."""
    return [make_cell("kd", teacher, seed=seed) for teacher in teachers for seed in range(2)] + [make_cell()]


@pytest.fixture
def make_agenda(teachers: list[Cell], students: list[Cell]) -> MakeAgenda:
    def make(states: tuple[State, State] = (State.MISSING, State.MISSING), **others: State) -> Agenda:
        grid = Grid("grid", "", tuple(students))
        first = tuple(Entry(cell, state) for cell, state in zip(teachers, states, strict=True))
        rest = tuple(Entry(cell, others.get(f"student{i}", State.MISSING)) for i, cell in enumerate(students))
        return Agenda(Plan(grid, first, rest))

    return make


def startable(agenda: Agenda) -> list[Cell]:
    started = []
    while cell := agenda.next():
        started.append(cell)
    return started


def test_what_needs_no_teacher_starts_with_the_teachers_and_nothing_starts_twice(
    make_agenda: MakeAgenda, teachers: list[Cell], students: list[Cell]
) -> None:
    agenda = make_agenda()
    assert startable(agenda) == [*teachers, students[4]]
    assert startable(agenda) == []
    assert len(agenda) == 7


def test_a_cell_of_several_ranks_waits_for_as_many_devices(make_cell: Make) -> None:
    cells = [make_cell(world=2), make_cell(seed=1)]
    agenda = Agenda(Plan(Grid("grid", "", tuple(cells)), (), tuple(Entry(cell, State.MISSING) for cell in cells)))
    assert [agenda.next(devices=1), agenda.next(devices=1), agenda.next(devices=2)] == [cells[1], None, cells[0]]


def test_a_students_turn_comes_when_its_own_teacher_is_finished(
    make_agenda: MakeAgenda, teachers: list[Cell], students: list[Cell]
) -> None:
    agenda = make_agenda()
    startable(agenda)
    agenda.finished(teachers[1])
    assert startable(agenda) == students[2:4]
    agenda.finished(teachers[0])
    assert startable(agenda) == students[:2]
    for cell in students:
        agenda.finished(cell)
    assert len(agenda) == 0


def test_only_what_is_missing_or_running_elsewhere_is_done(make_agenda: MakeAgenda, students: list[Cell]) -> None:
    agenda = make_agenda(
        (State.FINISHED, State.FINISHED),
        student0=State.FINISHED, student1=State.FAILED, student2=State.INVALID, student3=State.RUNNING,
    )  # fmt: skip
    assert startable(agenda) == [students[4], students[3]]


def test_a_grid_goes_on_seed_by_seed_behind_its_teachers(make_agenda: MakeAgenda, teachers: list[Cell]) -> None:
    agenda = make_agenda((State.FINISHED, State.MISSING))
    agenda.unfinished.clear()
    assert [cell.seed for cell in startable(agenda)] == [teachers[1].seed, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("state", [State.FAILED, State.INVALID])
def test_a_teacher_that_will_never_be_there_blocks_its_own_students(
    make_agenda: MakeAgenda, teachers: list[Cell], students: list[Cell], state: State
) -> None:
    agenda = make_agenda((State.FINISHED, state))
    assert agenda.blocked() == students[2:4]
    assert agenda.blocked() == []
    assert startable(agenda) == [students[0], students[4], students[1]]


def test_a_teacher_that_fails_blocks_its_own_students(
    make_agenda: MakeAgenda, teachers: list[Cell], students: list[Cell]
) -> None:
    agenda = make_agenda()
    assert agenda.blocked() == []
    startable(agenda)
    agenda.failed(teachers[0])
    assert agenda.blocked() == students[:2]
    agenda.finished(teachers[1])
    assert startable(agenda) == students[2:4]


def test_a_cell_that_another_process_runs_comes_back_later(
    make_agenda: MakeAgenda, teachers: list[Cell], clock: Clock
) -> None:
    agenda = make_agenda()
    startable(agenda)
    agenda.elsewhere(teachers[0])
    assert len(agenda) == 7
    assert agenda.next() is None
    clock.now += ASK_AGAIN
    assert startable(agenda) == [teachers[0]]


def test_a_teacher_that_another_process_runs_keeps_its_students_waiting(
    make_agenda: MakeAgenda, teachers: list[Cell], students: list[Cell], clock: Clock
) -> None:
    agenda = make_agenda((State.RUNNING, State.FINISHED))
    assert startable(agenda) == [teachers[0], students[2], students[4], students[3]]
    agenda.elsewhere(teachers[0])
    clock.now += ASK_AGAIN
    assert startable(agenda) == [teachers[0]]
    agenda.finished(teachers[0])
    assert startable(agenda) == students[:2]


def test_cells_that_see_the_same_by_the_same_teacher_may_take_turns(
    make_cell: Make, teachers: list[Cell], make_agenda: MakeAgenda, students: list[Cell]
) -> None:
    alike = [make_cell(method, teachers[0], seed=0) for method in ("at", "sp", "rkd")]
    students += alike
    agenda = make_agenda((State.FINISHED, State.FINISHED))
    first = agenda.next()
    assert first == students[0]  # kd, of seed 0
    assert agenda.beside(first, 2) == alike[:2]
    assert agenda.beside(first, 2) == alike[2:]  # not the other seed, nor the other teacher's
    assert startable(agenda) == [students[2], students[4], students[1], students[3]]
    assert agenda.beside(students[4], 3) == []  # who has no teacher has nothing to share


def test_those_that_died_in_company_are_run_alone(
    make_cell: Make, teachers: list[Cell], make_agenda: MakeAgenda, students: list[Cell]
) -> None:
    students[1:] = [make_cell(method, teachers[0], seed=0) for method in ("at", "sp")]
    agenda = make_agenda((State.FINISHED, State.FINISHED))
    first = agenda.next()
    assert first
    company = [first, *agenda.beside(first, 2)]
    for cell in company:
        agenda.alone(cell)
    assert agenda.next() == company[0]
    assert agenda.beside(company[0], 2) == []
    assert startable(agenda) == company[1:]
