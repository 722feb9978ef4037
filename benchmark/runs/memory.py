"""Teachers' memories, which cache their answers: which runs use one, and where it is kept."""

from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.data.views import views_of_an_image
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.memory import RememberingTeacher, affordable
from kdbench.methods.chain import Chain
from kdbench.methods.method import Needs


def listening(
    cell: Cell, teacher: Chain | None, record: Record | None, needs: Needs, dataset: Dataset, store: Store,
    engine: Engine,
) -> RememberingTeacher | None:  # fmt: skip
    """The memory of a cell's teacher, or None if the cell cannot use one."""
    if teacher is None or record is None or engine.live_teacher:
        return None
    if cell.world > 1:  # each of its processes would have only a part of the answers
        return None
    views = len(dataset.train) * views_of_an_image(dataset, cell.training.augment)
    if not affordable(needs, teacher, views):
        return None
    folder = store.memory(
        record,
        images=f"{cell.dataset} {dataset.train.digest()}",
        views=views,
        moves=[dataset.crop, dataset.flip, *dataset.mean, *dataset.std],
        precision=cell.training.precision,
        arithmetic=engine.arithmetic(cell.training.precision),
    )
    return RememberingTeacher(teacher, needs, views, folder)
