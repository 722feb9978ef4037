"""Runs one cell again, and checks whether it gives the bits of its record."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import msgspec
import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.plans.declaration import declared, learns
from kdbench.benchmark.plans.feasibility import unworkable
from kdbench.benchmark.records.cell import IMPORT, Cell, called
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record, same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.bars import Bars
from kdbench.benchmark.runs.crew import crew, describe
from kdbench.benchmark.runs.launcher import engines, places
from kdbench.benchmark.runs.run import Ran, run
from kdbench.benchmark.runs.worker import News
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Compile
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.words import duration
from kdbench.portable import can_be_portable, portable, start_again_portably
from kdbench.refusal import Refusal


def run_again(
    name: str, results: Path, data_folder: Path, live_teacher: bool = False, compile: Compile = "auto"
) -> int:
    """Run a record's cell again, with the record's settings unless others are given, and report whether it gives the
    same bits. ``name`` is a record's id, an unambiguous part of it, or a file with a record or with a cell as grids
    make it. A cell that has no record here gets one."""
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
        print(f"{cell.id} was run with --portable, and is run with it again", flush=True)
        start_again_portably()
    with nullcontext() if record else _held(cell, store):
        if record is None and store.record(cell.id):
            raise Refusal(f"{cell.id} has just been finished by another process: the same command now repeats it")
        fresh, weights = _anew(cell, record, store, data_folder, live_teacher, compile)
        if record is None:
            store.finish(fresh, weights)
    print(f"{cell.id}: top-1 {fresh.result.top1:.2f} in {duration(fresh.cost.wall_seconds)}")
    if record is None:
        return 0
    if same_bits(fresh.result, record.result):
        if known and same_bits(fresh.result, known.result):
            store.finish(fresh, weights)  # a teacher's weights may be missing
        print("The same bits as the record.")
        return 0
    if record.data not in ("", fresh.data):
        print(f"Different bits (record: {record.result.top1:.2f}), as expected: the data differ.")
        return 0
    if fresh.result.teacher_weights != record.result.teacher_weights:
        print(f"Different bits (record: {record.result.top1:.2f}), as expected: the teacher's weights differ.")
        return 0
    if fresh.environment.key != record.environment.key:
        print(f"Different bits (record: {record.result.top1:.2f}), as expected: the environment differs.")
        return 0
    print(f"Different bits (record: {record.result.top1:.2f}) in the same environment.")
    return 1


def _known(name: str, store: Store) -> Record | None:
    """The record that the name refers to; None if it refers to a file."""
    if Path(name).name != name:
        return None
    found = called(name, store.outlines())
    if found != [name] and Path(name).is_file():
        return None
    if len(found) > 1:
        raise Refusal(f"--cell must name one finished cell, got '{name}': {len(found)} start with it")
    return store.record(found[0]) if found else None


def _record_or_cell(file: Path) -> tuple[Record | None, Cell]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Refusal(f"--cell must be a finished cell's id, or a file, got {file}: {error.strerror}") from None
    decode = msgspec.yaml.decode if file.suffix in (".yaml", ".yml") else msgspec.json.decode
    try:
        record: Record = decode(content, type=Record)
    except (ValueError, RecursionError):  # ValueError: msgspec's, and that of text that cannot be decoded
        try:
            return None, decode(content, type=Cell)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{file} must be a record or a cell: {error}") from None
    if record.id != record.cell.id:
        raise Refusal(f"{file} must hold a record with its cell's id, {record.cell.id}, got {record.id}")
    return record, record.cell


def _as_declared(cell: Cell, name: str) -> None:
    """Refuse a cell that no grid would make: no grid would find its record, or it would duplicate another cell's."""
    if cell.method == IMPORT:
        return
    if learns(cell) and cell.teacher is None:
        raise Refusal(f"{name} must name the teacher that '{cell.method}' learns from, got none")
    if declared(cell).id != cell.id or not cell.protocol:
        raise Refusal(f"{name} must hold a record, or a cell as grids make it, got another cell: declare it in a grid")
    if cell.teacher:
        _as_declared(cell.teacher, name)


def _anew(
    cell: Cell, record: Record | None, store: Store, data_folder: Path, live_teacher: bool, compile: Compile
) -> Ran:
    """Run a cell with the settings of ``record``: the number of threads and compilation change the last bits."""
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
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(f"{cell.id} failed: {describe(error)}") from error


@contextmanager
def _school(cell: Cell, record: Record | None, store: Store, data_folder: Path) -> Iterator[Store]:
    """The store in which the cell finds its teacher. A teacher whose weights are missing is retrained. It is kept if
    its weights match the records, or if no record names any. Otherwise only this run uses it: students in the store
    have learned from the other weights."""
    teacher = cell.teacher
    known = store.record(teacher.id) if teacher else None
    if teacher is None or teacher.method == IMPORT or (known and store.weights(teacher).exists()):
        yield store
        return
    print(f"{teacher.id}, its teacher, is trained first: its weights are missing", flush=True)
    with _held(teacher, store):
        fresh, weights = _anew(teacher, known or record, store, data_folder, False, "auto")
        wanted = known.result.weights if known else record.result.teacher_weights if record else fresh.result.weights
        stays = wanted == fresh.result.weights
        if stays:
            store.finish(fresh, weights)
    if stays:
        yield store
        return
    with tempfile.TemporaryDirectory(dir=store.folder / "work") as scratch:  # its memory may take gigabytes
        school = Store(Path(scratch))
        school.finish(fresh, weights)
        yield school


@contextmanager
def _held(cell: Cell, store: Store) -> Iterator[None]:
    """The cell's lease: nobody else trains it meanwhile."""
    lease = Lease.take(store.work(cell.id))
    if lease is None:
        raise Refusal(f"{cell.id} must be free for this run, but another process is training it")
    with lease:
        yield


@contextmanager
def _threads(asked: int | None) -> Iterator[None]:
    """Use as many threads as asked for, but no more than there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(asked or before, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
