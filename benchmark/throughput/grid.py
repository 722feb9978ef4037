"""The verb ``throughput``: measure the cells of a grid that have no record in this environment yet."""

import itertools
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdbench.benchmark import data, extensions
from kdbench.benchmark.plans.feasibility import unworkable
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.environment import environment
from kdbench.benchmark.runs.bars import Bars
from kdbench.benchmark.runs.crew import describe
from kdbench.benchmark.runs.launcher import deaf
from kdbench.benchmark.throughput.measure import measure
from kdbench.benchmark.throughput.record import Throughput, keep, measured, records
from kdbench.benchmark.throughput.table import tables
from kdbench.benchmark.training.compilation import Uncompilable
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal


@dataclass
class Measured:
    records: list[Throughput]  # the grid's in this environment, both earlier and new ones
    troubles: list[str]  # a sentence for every cell that cannot work and for every invalid file
    failed: int = 0


def measure_grid(name: str, results: Path, data_folder: Path, again: bool) -> Measured:
    """Measure, and rewrite the environment's page."""
    answer = Measured([], [])
    troubles = answer.troubles
    cells = {cell.id: cell for cell in map(measured, load(name).cells)}
    engine = Engine.best()
    # Each run decides whether it is compiled.
    precisions = {cell.training.precision for cell in cells.values()}
    engines = (engine, replace(engine, compile="on"))
    here = {environment(*manner).key for manner in itertools.product(engines, precisions)}
    known = {record.id for record in records(results, troubles) if record.environment.key in here}
    todo = [cell for cell in cells.values() if again or cell.id not in known]
    able = [cell for cell in todo if not _refused(cell, troubles)]
    if todo and len(todo) == len(cells) and not able:
        raise Refusal(f"{name}: no cell can work: {troubles[-1]}")
    for dataset in {cell.dataset for cell in able}:
        data.load(dataset, data_folder)  # read or downloaded before the timing starts

    work = results / "work"
    work.mkdir(parents=True, exist_ok=True)
    # Bars go to stderr: stdout holds only the answer.
    with tempfile.TemporaryDirectory(dir=work) as scratch, Bars(stderr=True) as bars:
        bars.total(len(able))
        for cell in able:
            try:
                record = by_itself(cell, engine, data_folder, Path(scratch))
            except Exception as error:  # the other cells may still work
                answer.failed += 1
                bars.over(cell, "failed", describe(error))
            else:
                keep(record, results)
                bars.over(cell, "measured", f"{record.live.images_per_second:,.0f} images/s")

    there = [record for record in records(results) if record.environment.key in here]
    for file, content in tables(there, results).items():
        write(file, content)
    answer.records = [record for record in there if record.id in cells]
    return answer


def by_itself(cell: Cell, engine: Engine, data_folder: Path, scratch: Path) -> Throughput:
    """Measure a cell in its own process, so that another cell's memory or crash does not affect it."""
    context = multiprocessing.get_context("spawn")
    there = torch.get_num_threads(), extensions.files()
    with ProcessPoolExecutor(1, context, initializer=_settle_in, initargs=there) as process:
        try:
            with deaf():
                measuring = process.submit(_as_it_runs, cell, engine, data_folder, scratch)
            return measuring.result()
        except KeyboardInterrupt:  # the result is no longer needed
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _settle_in(threads: int, files: Sequence[Path]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    for file in files:
        extensions.load(file)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _as_it_runs(cell: Cell, engine: Engine, data_folder: Path, scratch: Path) -> Throughput:
    try:
        return measure(cell, engine, data_folder, scratch)
    except Uncompilable:  # then run it without compilation
        return measure(cell, replace(engine, compile="off"), data_folder, scratch)


def _refused(cell: Cell, troubles: list[str]) -> bool:
    if cell.incremental:
        reason = "its setting is not measured"
    else:
        reason = "training with several processes is not measured" if cell.world > 1 else unworkable(cell)
    if reason:
        troubles.append(f"{cell.id} cannot work: {reason}")
    return bool(reason)
