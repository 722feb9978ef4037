"""One cell anew: whether a record's bits come out again."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.cell import IMPORT, Cell
from kdbench.benchmark.experiments.crew import crew
from kdbench.benchmark.experiments.feasibility import unworkable
from kdbench.benchmark.experiments.launcher import engines
from kdbench.benchmark.experiments.local import Bars, places
from kdbench.benchmark.experiments.record import Record, same_bits
from kdbench.benchmark.experiments.run import Ran, run
from kdbench.benchmark.experiments.store import Store, write
from kdbench.benchmark.experiments.words import duration
from kdbench.benchmark.experiments.worker import News
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Compile
from kdbench.benchmark.training.loop import Diverged, Live
from kdbench.refusal import Refusal


def run_again(
    name: str, results: Path, data_folder: Path, live_teacher: bool = False, compile: Compile = "auto"
) -> int:
    """Run a record's cell anew, in its own manner unless another is asked for, and say whether it gives the same bits.
    ``name`` is a record's id, or a file that holds a record or a cell; a cell that has no record here leaves one."""
    store = Store(results)
    record = store.record(name) if Path(name).name == name else None
    record, cell = (record, record.cell) if record else _record_or_cell(Path(name))
    record = record or store.record(cell.id)
    extensions.needs(cell.files)
    if record is None and (why := unworkable(cell)):
        raise Refusal(f"{cell.id} cannot work: {why}")
    fresh, weights = _anew(cell, record, store, data_folder, live_teacher, compile)
    print(f"{cell.id}: top-1 {fresh.result.top1:.2f} in {duration(fresh.cost.wall_seconds)}")
    if record is None:
        store.finish(fresh, weights)
        return 0
    if same_bits(fresh.result, record.result):
        _keep(fresh, weights, store)
        print("The same bits as the record.")
        return 0
    if fresh.result.teacher_weights != record.result.teacher_weights:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: its teacher has other weights.")
        return 0
    if fresh.environment.key != record.environment.key:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: it comes from another environment.")
        return 0
    print(f"Other bits than the record ({record.result.top1:.2f}), in the same environment.")
    return 1


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


def _anew(
    cell: Cell, record: Record | None, store: Store, data_folder: Path, live_teacher: bool, compile: Compile
) -> Ran:
    with _school(cell, store, data_folder, compile) as school, tempfile.TemporaryDirectory() as scratch:
        if record:  # how sums are split over threads changes the last bits, and so does compilation
            arithmetic = record.environment.arithmetic
            torch.set_num_threads(min(arithmetic.get("threads", 1), torch.get_num_threads()))
            live_teacher |= arithmetic.get("teacher") != "remembered"
            if compile == "auto":
                compile = "on" if "compile" in arithmetic else "off"
        workers = places(cell.id, None, cell.world)
        engine, *others = engines(workers, live_teacher=live_teacher, compile=compile)[: cell.world]
        with (
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
def _school(cell: Cell, store: Store, data_folder: Path, compile: Compile) -> Iterator[Store]:
    """Where the cell finds its teacher. Weights that are gone are trained anew, and kept where they are those that the
    teacher's record speaks of; else they teach this once, and leave the store to those who learnt from the others."""
    teacher = cell.teacher
    if teacher is None or teacher.method == IMPORT or store.weights(teacher).exists():
        yield store
        return
    print(f"{teacher.id}, its teacher, comes first: no weights are here", flush=True)
    record, threads = store.record(teacher.id), torch.get_num_threads()
    fresh, weights = _anew(teacher, record, store, data_folder, False, compile)
    torch.set_num_threads(threads)
    kept = record is not None and _keep(fresh, weights, store)
    with tempfile.TemporaryDirectory() as scratch:
        school = store if kept or record is None else Store(Path(scratch))
        if not kept:
            school.finish(fresh, weights)
        yield school


def _keep(fresh: Record, weights: bytes | None, store: Store) -> bool:
    """Weights that are gone, if these are they."""
    record, file = store.record(fresh.id), store.weights(fresh.cell)
    same = record is not None and record.result.weights == fresh.result.weights
    if same and weights is not None and not file.exists():
        write(file, weights)
    return same
