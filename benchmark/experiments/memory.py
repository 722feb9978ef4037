"""Which cells hear their teacher from memory, where that lies, and what it spares them."""

from collections.abc import Iterable

import msgspec

from kdbench.benchmark import data, networks
from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.data.views import views_of_an_image
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.memory import RememberingTeacher, affordable, limit, rememberable, size
from kdbench.methods.chain import Chain
from kdbench.methods.method import Needs


def listening(
    cell: Cell, teacher: Chain | None, record: Record | None, needs: Needs, dataset: Dataset, store: Store,
    engine: Engine,
) -> RememberingTeacher | None:  # fmt: skip
    """The memory that a cell's teacher is heard from, if it can be."""
    if teacher is None or record is None or engine.live_teacher:
        return None
    if cell.world > 1:  # each of its processes would have a part of the answers
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


class Outlook(msgspec.Struct, kw_only=True):
    """What a plan says of one teacher's memory; asking it of every image once is an epoch."""

    teacher: str
    full: int  # bytes that it takes when nothing is missing
    there: int  # bytes on disk
    heard: int  # epochs of answers that the missing cells hear
    asked: float  # epochs that they ask for, if nothing were remembered yet; the rest is seen twice
    everything: int  # epochs that all views take
    off: bool  # it would be too large


def outlook(missing: Iterable[tuple[Cell, Needs]], store: Store) -> tuple[Outlook, ...]:
    """The memories that cells which are to run would use, teacher by teacher."""
    shared: dict[tuple[str, str], list[tuple[Cell, int, int]]] = {}
    for cell, needs in missing:
        known = data.source(cell.dataset)
        views = known.views if cell.training.augment else 1
        if cell.teacher is None or views is None or cell.world > 1:
            continue
        teacher = networks.form(cell.teacher.student, known.classes, known.image)
        if rememberable(needs, teacher):
            bytes_ = size(needs, teacher, known.train * views)
            shared.setdefault((cell.teacher.id, cell.training.precision), []).append((cell, views, bytes_))
    return tuple(_of_one(store, teacher, cells) for (teacher, _), cells in sorted(shared.items()))


def _of_one(store: Store, teacher: str, cells: list[tuple[Cell, int, int]]) -> Outlook:
    epochs: dict[int, int] = {}  # cells of a seed see the same views
    for cell, _, _ in cells:
        epochs[cell.seed] = max(epochs.get(cell.seed, 0), cell.training.epochs)
    views, full = max(views for _, views, _ in cells), max(bytes_ for _, _, bytes_ in cells)
    files = store.memories(teacher).glob("*/*.fp16")
    return Outlook(
        teacher=teacher,
        full=full,
        there=sum(512 * file.stat().st_blocks for file in files),
        heard=sum(cell.training.epochs for cell, _, _ in cells),
        asked=round(views * (1 - (1 - 1 / views) ** sum(epochs.values())), 1),
        everything=views,
        off=full > limit(),
    )


def in_words(memories: Iterable[Outlook]) -> list[str]:
    """To ask for every view in advance never spares the teacher anything: who asks as it goes asks for no more."""
    lines, memories = [], list(memories)
    if on := [memory for memory in memories if not memory.off]:
        there, heard, asked, everything = (
            sum(getattr(memory, name) for memory in on) for name in ("there", "heard", "asked", "everything")
        )
        full = sum(max(memory.full, memory.there) for memory in on)  # others have asked for more
        lines.append(
            f"teachers' memory: {_shown(there)} so far, at most {_shown(full)}; teachers answer for about {asked:.0f} "
            f"epochs of images instead of {heard} (every view in advance: {everything})"
        )
    if off := [memory for memory in memories if memory.off]:
        largest = _shown(max(memory.full for memory in off))
        lines.append(
            f"teachers' memory: off for {len(off)}, which would take up to {largest} "
            f"(KDBENCH_MEMORY_GB allows {_shown(limit())})"
        )
    return lines


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
