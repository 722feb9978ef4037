"""Completes a cell, whether from a grid or from its own file: everything that its numbers depend on is filled in."""

import msgspec

from kdbench.benchmark import extensions
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.methods import involved, taught


def learns(cell: Cell) -> bool:
    """Whether the cell has a teacher that is a cell. In the incremental setting the teacher is the earlier network."""
    return taught(cell.method) and not cell.incremental


def declared(cell: Cell) -> Cell:
    """The cell with all hyper-parameters, its network's learning rate and the files that it needs. The same is done for
    its teacher, if it has one."""
    if cell.method == IMPORT:
        return cell
    params = complete(cell.method, cell.params)
    return msgspec.structs.replace(
        cell,
        teacher=declared(cell.teacher) if cell.teacher and learns(cell) else None,
        params=params,
        recipe=cell.training.for_network(cell.student),
        code=extensions.needed(cell.dataset, cell.student, *involved(cell.method, params)),
    )
