"""Decides which cell may start now. A cell waits for its teacher's record, and is dropped if that will never exist."""

import time
from itertools import islice

from kdbench.benchmark.plans.plan import Plan, State
from kdbench.benchmark.records.cell import Cell

ASK_AGAIN = 2.0  # seconds until a cell that another process runs is checked again


class Agenda:
    """The cells of a plan that are still to be run: teachers first, then students seed by seed. A grid that is stopped
    halfway then has every method on the same seeds."""

    def __init__(self, plan: Plan) -> None:
        teachers = {entry.cell.id for entry in plan.teachers}
        cells = [entry.cell for entry in plan.those(State.MISSING, State.RUNNING)]
        self.waiting = {cell.id: cell for cell in sorted(cells, key=lambda cell: (cell.id not in teachers, cell.seed))}
        self.unfinished = {e.cell.id for e in plan.teachers if e.state is not State.FINISHED}
        self.lost = {e.cell.id for e in plan.teachers if e.state in (State.FAILED, State.INVALID)}
        self.running: dict[str, Cell] = {}
        self._not_before: dict[str, float] = {}
        self._solitary: set[str] = set()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def next(self, devices: int = 1) -> Cell | None:
        """A cell that may start now on this many devices. It counts as running from then on."""
        for key, cell in self.waiting.items():
            taught = cell.teacher is None or cell.teacher.id not in self.unfinished
            if taught and cell.world <= devices and self._not_before.get(key, 0) <= time.monotonic():
                self.running[key] = self.waiting.pop(key)
                return cell
        return None

    def beside(self, cell: Cell, most: int) -> list[Cell]:
        """Further cells that may start now and have the same teacher and the same images at each step as this one.
        They take turns, and the teacher is queried once for all of them."""
        if cell.id in self._solitary:
            return []
        held = self._solitary | self._not_before.keys()
        free = (key for key, other in self.waiting.items() if key not in held and _alike(cell, other))
        self.running |= (beside := {key: self.waiting.pop(key) for key in [*islice(free, most)]})
        return list(beside.values())

    def finished(self, cell: Cell) -> None:
        del self.running[cell.id]
        self.unfinished.discard(cell.id)

    def failed(self, cell: Cell) -> None:
        del self.running[cell.id]
        self.lost.add(cell.id)

    def elsewhere(self, cell: Cell) -> None:
        """Another process runs the cell. It may finish the cell, or die and leave it to us."""
        del self.running[cell.id]
        self.waiting[cell.id] = cell
        self._not_before[cell.id] = time.monotonic() + ASK_AGAIN

    def alone(self, cell: Cell) -> None:
        """Run the cell again without others. The process that it shared with others lacked the memory for all, or died,
        and which cell was at fault is unknown."""
        self.waiting[cell.id] = self.running.pop(cell.id)
        self._solitary.add(cell.id)

    def blocked(self) -> list[Cell]:
        """Cells whose teacher failed or is invalid; they leave the agenda."""
        if not self.lost:  # avoids a pass over many waiting cells
            return []
        without = [cell for cell in self.waiting.values() if cell.teacher and cell.teacher.id in self.lost]
        for cell in without:
            del self.waiting[cell.id]
        return without


def _alike(one: Cell, other: Cell) -> bool:
    if one.teacher is None or one.world > 1 or one.seed != other.seed:
        return False
    return _sights(one) == _sights(other)


def _sights(cell: Cell) -> tuple[object, ...]:
    return cell.setting, cell.dataset, cell.teacher, cell.student, cell.recipe, cell.seed, cell.world
