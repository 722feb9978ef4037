"""What two runs must have in common to be compared."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Brief

REFERENCES = ["ce", "kd"]


class Tasks:
    """A task is all that a cell asks but its seed, its teacher and its method. Files of one's own belong to it where
    they bring the student or the data set, as those do that a reference needs: a method's own file is another's matter,
    and two versions of a network are two networks."""

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
