"""What two runs must share to be compared."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Brief

REFERENCES = ["ce", "kd"]


class Tasks:
    """A task is everything that a cell asks for except its seed, teacher and method.

    Custom files are part of it if they bring the student or the data set: these are the files that a reference needs.
    Two versions of a network are two networks. The file of a method is not part of the task.
    """

    def __init__(self, records: Iterable[Brief]) -> None:
        self._files: dict[tuple[str, str], set[str]] = defaultdict(set)
        for record in records:
            cell = record.cell
            if cell.code and cell.method in REFERENCES:
                self._files[cell.dataset, cell.student] |= cell.code.keys()

    def of(self, cell: Cell) -> str:
        files = self._files[cell.dataset, cell.student] if cell.code else ()
        code = {file: digest for file, digest in cell.code.items() if file in files}
        return msgspec.structs.replace(cell, seed=0, teacher=None, method="", params={}, code=code).id
