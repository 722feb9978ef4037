"""Estimates how long a cell takes, from the records of similar cells."""

import statistics
from collections.abc import Iterable

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.outline import Outline, likes


class Expectation:
    """The median time of the most similar cells, on all the machines on which they ran."""

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
