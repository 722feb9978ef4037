"""What a plan expects of teachers' memories: how large they become, and how many of the teacher's answers they save."""

from collections.abc import Iterable

import msgspec

from kdbench.benchmark import data, networks
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.memory import limit, rememberable, size
from kdbench.benchmark.words import counted
from kdbench.methods.method import Needs


class Outlook(msgspec.Struct, kw_only=True):
    """A plan's estimates for one teacher's memory. An epoch is one query for every training image."""

    teacher: str
    full: int  # bytes if every answer is cached
    there: int  # bytes on disk now
    heard: int  # epochs of answers that the missing cells use
    asked: float  # epochs of these that the teacher computes, if nothing is cached yet; the rest are repeated views
    everything: int  # epochs for all views
    off: bool  # not used, as it would be too large


def outlook(missing: Iterable[tuple[Cell, Needs]], store: Store) -> tuple[Outlook, ...]:
    """The memories that the missing cells would use, teacher by teacher."""
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
    """The estimates in text."""
    lines, memories = [], list(memories)
    if on := [memory for memory in memories if not memory.off]:
        there, heard, asked = (sum(getattr(memory, name) for memory in on) for name in ("there", "heard", "asked"))
        full = sum(max(memory.full, memory.there) for memory in on)  # other grids may have cached more
        lines.append(
            f"teachers' memory: {_shown(there)} now, at most {_shown(full)}; it answers for the teachers in about "
            f"{heard - asked:.0f} of {counted(heard, 'epoch')}"
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
