"""What a grid and a cell's own file have in common: nothing that a cell's numbers hang on is left open."""

import msgspec

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.cell import IMPORT, Cell
from kdbench.benchmark.experiments.parameters import complete
from kdbench.methods import involved, taught


def learns(cell: Cell) -> bool:
    """Whether it has a teacher: in the incremental setting the network as it was is one, and no cell."""
    return taught(cell.method) and not cell.incremental


def declared(cell: Cell) -> Cell:
    """``cell`` with all hyper-parameters, its network's own learning rate and the files that it needs; its teacher too,
    where it learns from one."""
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
