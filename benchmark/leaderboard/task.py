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
    Two versions of a network are two networks. The file of a method is not part of the task. Two versions of the images
    are two data sets.
    """

    def __init__(self, records: Iterable[Brief]) -> None:
        self._files: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._versions: dict[str, set[str]] = defaultdict(set)  # of each data set; records may not know theirs
        self._recipes: dict[tuple[bytes, int], str] = {}
        for record in records:
            cell = record.cell
            if cell.code and cell.method in REFERENCES:
                self._files[cell.dataset, cell.student] |= cell.code.keys()
            if record.data:
                self._versions[cell.dataset].add(record.data)
            same = msgspec.json.encode(cell.recipe), cell.world
            self._recipes[same] = min(self._recipes.get(same, cell.protocol), cell.protocol, key=_plainness)

    def version(self, record: Brief) -> str:
        """The record's version of its data set, if there are several."""
        return record.data if len(self._versions[record.cell.dataset]) > 1 else ""

    def of(self, cell: Cell, version: str) -> str:
        files = self._files[cell.dataset, cell.student] if cell.code else ()
        code = {file: digest for file, digest in cell.code.items() if file in files}
        if version:
            code["its data"] = version
        return msgspec.structs.replace(cell, seed=0, teacher=None, method="", params={}, code=code).id

    def recipe(self, cell: Cell, version: str) -> str:
        """One name for a recipe that grids have written in several ways, with the version of the data if it has one."""
        name = self._recipes[msgspec.json.encode(cell.recipe), cell.world]
        return f"{name} #{'-'.join(digest[:6] for digest in version.split())}" if version else name


def _plainness(name: str) -> tuple[bool, int, str]:
    return name.startswith("custom"), len(name), name
