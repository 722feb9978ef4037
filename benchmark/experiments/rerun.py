"""One cell anew: whether a record's bits come out again."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.bars import Bars
from kdbench.benchmark.experiments.cell import IMPORT, Cell, called
from kdbench.benchmark.experiments.crew import crew
from kdbench.benchmark.experiments.declaration import declared, learns
from kdbench.benchmark.experiments.feasibility import unworkable
from kdbench.benchmark.experiments.launcher import engines, places
from kdbench.benchmark.experiments.lease import Lease
from kdbench.benchmark.experiments.record import Record, same_bits
from kdbench.benchmark.experiments.run import Ran, run
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.words import duration
from kdbench.benchmark.experiments.worker import News
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Compile
from kdbench.benchmark.training.loop import Diverged, Live
from kdbench.portable import can_be_portable, portable, start_again_portably
from kdbench.refusal import Refusal


def run_again(
    name: str, results: Path, data_folder: Path, live_teacher: bool = False, compile: Compile = "auto"
) -> int:
    """Run a record's cell anew, in its own manner unless another is asked for, and say whether it gives the same bits.
    ``name`` is a record's id, as much of it as is no other's, or a file that holds a record or a cell as grids make it;
    a cell that has no record here leaves one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever asks politely is answered as Ctrl-C is
    store = Store(results)
    known = _known(name, store)
    record, cell = (known, known.cell) if known else _record_or_cell(Path(name))
    known = known or store.record(cell.id)
    record = record or known
    extensions.needs(cell.files)
    if record is None:
        _as_declared(cell, name)
        if why := unworkable(cell):
            raise Refusal(f"{cell.id} cannot work: {why}")
    if record and record.environment.arithmetic.get("portable") and not portable() and can_be_portable():
        print(f"{cell.id} was run with --portable, and so is it now", flush=True)
        start_again_portably()
    fresh, weights = _anew(cell, record, store, data_folder, live_teacher, compile)
    print(f"{cell.id}: top-1 {fresh.result.top1:.2f} in {duration(fresh.cost.wall_seconds)}")
    if record is None:
        store.finish(fresh, weights)
        return 0
    if same_bits(fresh.result, record.result):
        if known and same_bits(fresh.result, known.result):
            store.finish(fresh, weights)  # a teacher's may be gone
        print("The same bits as the record.")
        return 0
    if record.data not in ("", fresh.data):
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: its data were others.")
        return 0
    if fresh.result.teacher_weights != record.result.teacher_weights:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: its teacher has other weights.")
        return 0
    if fresh.environment.key != record.environment.key:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: it comes from another environment.")
        return 0
    print(f"Other bits than the record ({record.result.top1:.2f}), in the same environment.")
    return 1


def _known(name: str, store: Store) -> Record | None:
    """The record that is meant, unless a file is."""
    if Path(name).name != name:
        return None
    found = called(name, store.outlines().keys() | store.newer.keys())
    if found != [name] and Path(name).is_file():
        return None
    if len(found) > 1:
        raise Refusal(f"--cell must name one finished cell, got '{name}': {len(found)} begin so")
    return store.record(found[0]) if found else None


def _record_or_cell(file: Path) -> tuple[Record | None, Cell]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Refusal(f"--cell must be a finished cell's id, or a file, got {file}: {error.strerror}") from None
    decode = msgspec.yaml.decode if file.suffix in (".yaml", ".yml") else msgspec.json.decode
    try:
        record: Record = decode(content, type=Record)
        return record, record.cell
    except (ValueError, RecursionError):  # ValueError: msgspec's, and those of text
        try:
            return None, decode(content, type=Cell)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{file} must be a record or a cell: {error}") from None


def _as_declared(cell: Cell, name: str) -> None:
    """Refuses a cell that no grid would make: its record would be found by none, or stand beside that of its twin."""
    if cell.method == IMPORT:
        return
    if learns(cell) and cell.teacher is None:
        raise Refusal(f"{name} must name the teacher that '{cell.method}' learns from, got none")
    if declared(cell).id != cell.id or not cell.protocol:
        raise Refusal(f"{name} must hold a record, or a cell as grids make it, got another cell: write a grid of it")
    if cell.teacher:
        _as_declared(cell.teacher, name)


def _anew(
    cell: Cell, record: Record | None, store: Store, data_folder: Path, live_teacher: bool, compile: Compile
) -> Ran:
    """In the manner of ``record``: how sums are split over threads changes the last bits, and so does compilation."""
    arithmetic = record.environment.arithmetic if record else {}
    if record:
        live_teacher |= arithmetic.get("teacher") != "remembered"
        if compile == "auto":
            compile = "on" if "compile" in arithmetic else "off"
    workers = places(cell.id, None, cell.world)
    engine, *others = engines(workers, live_teacher=live_teacher, compile=compile)[: cell.world]
    with (
        _school(cell, record, store, data_folder) as school,
        _threads(arithmetic.get("threads")),
        tempfile.TemporaryDirectory() as scratch,
        crew(engine, others, school.folder, data_folder, extensions.files()) as ranks,
        Bars() as bars,
        News(Path(scratch), partial(bars.live, cell)) as news,
    ):

        def watch(live: Live) -> None:
            news.live = live
            ranks.told(False)

        bars.total(1)
        ranks.given(cell)
        try:
            return run(cell, school, engine, data_folder, Checkpoints(Path(scratch)), watch, ranks)
        except Diverged as error:
            raise Refusal(f"{cell.id}: {error}") from error


@contextmanager
def _school(cell: Cell, record: Record | None, store: Store, data_folder: Path) -> Iterator[Store]:
    """Where the cell finds its teacher. One that is gone is trained anew, and stays if its weights are those that
    records speak of, or if none do; else it teaches this once: the store is for those who learnt from the other."""
    teacher = cell.teacher
    known = store.record(teacher.id) if teacher else None
    if teacher is None or teacher.method == IMPORT or (known and store.weights(teacher).exists()):
        yield store
        return
    print(f"{teacher.id}, its teacher, comes first: no weights of it are here", flush=True)
    lease = Lease.take(store.work(teacher.id))
    if lease is None:
        raise Refusal(f"{teacher.id}, its teacher, must be left to this run, but is being trained by another")
    with lease:
        fresh, weights = _anew(teacher, known or record, store, data_folder, False, "auto")
        wanted = known.result.weights if known else record.result.teacher_weights if record else fresh.result.weights
        stays = wanted == fresh.result.weights
        if stays:
            store.finish(fresh, weights)
    if stays:
        yield store
        return
    with tempfile.TemporaryDirectory(dir=store.folder / "work") as scratch:  # what it says may take gigabytes
        school = Store(Path(scratch))
        school.finish(fresh, weights)
        yield school


@contextmanager
def _threads(asked: int | None) -> Iterator[None]:
    """As many as were asked for, of those that there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(asked or before, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
