"""A process that runs cells, one after the other, and reports their outcomes to its launcher."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import msgspec
import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.environment import environment, now
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.outline import Outline, outdated
from kdbench.benchmark.records.record import Failure
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.crew import Interrupted, crew, describe
from kdbench.benchmark.runs.run import Ran, Running, running
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine, out_of_memory, usable
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.training.ranks import ALONE
from kdbench.benchmark.training.together import Together
from kdbench.benchmark.whole import write

GRACE = 60.0  # seconds that a worker is given to write a last checkpoint
Outcome = Literal["finished", "failed", "elsewhere", "alone"]  # alone: it must be run without others
Tell = Callable[[Cell, "Status"], None]


class Lost(Exception):
    """This process was believed dead, and another has taken over its cell."""


class Status(msgspec.Struct):
    """The progress of a running cell, for other processes: one small file in its working folder."""

    phase: str
    epoch: int
    epochs: int
    share: float  # of the phase's steps that are done
    seconds_left: float | None  # of the phase


class Worker:
    """Takes a cell's lease, runs it, and writes a record or a failure. Nothing that a cell does stops the worker."""

    def __init__(self, store: Store, engine: Engine, data_folder: Path) -> None:
        self.store, self.engine, self.data_folder = store, engine, data_folder
        self.stop = threading.Event()
        self.ranks = ALONE  # or several, of which this process is the first
        self.broken = False  # its GPU works no longer: only a new process can go on

    def work(self, cell: Cell, needs_weights: bool = False) -> Outcome:
        """``needs_weights``: a finished teacher whose weights are gone is run again."""
        [(_, outcome)] = self.work_on([cell], needs_weights)
        return outcome

    def work_on(
        self, cells: Sequence[Cell], needs_weights: bool = False, tell: Tell | None = None
    ) -> Iterator[tuple[Cell, Outcome]]:
        """Run cells in turns, one step each. The outcome of each is yielded as soon as it is known."""
        together = Together(len(cells)) if len(cells) > 1 else None
        turns = [(cell, self._working(cell, needs_weights, tell, together)) for cell in cells]
        interrupted = False
        while turns:
            for turn in list(turns):
                cell, steps = turn
                try:
                    next(steps)
                except StopIteration as end:
                    turns.remove(turn)
                    yield cell, end.value
                except Interrupted:  # the others have yet to write their checkpoints
                    turns.remove(turn)
                    interrupted = True
        if interrupted:
            raise Interrupted

    def _working(
        self, cell: Cell, needs_weights: bool, tell: Tell | None, together: Together | None
    ) -> Generator[None, None, Outcome]:
        folder = self.store.work(cell.id)
        try:
            lease = Lease.take(folder)
            if lease is None:
                return "elsewhere"
            with lease, News(folder, partial(tell, cell) if tell else None) as news:
                # Another process may have finished it between the plan and the lease, or failed.
                if self._finished(cell) and not (needs_weights and not self.store.weights(cell).exists()):
                    return "finished"
                if self.store.failure(cell.id):
                    return "failed"
                return (yield from self._run(cell, lease, news, together))
        except OSError as error:  # of the store, such as a full disk; the cell's own errors are caught in _run
            self.store.fail(failure(cell, describe(error), traceback.format_exc(), self.engine))
            return "failed"

    def _finished(self, cell: Cell) -> bool:
        record = self.store.record(cell.id)
        teacher = self.store.record(cell.teacher.id) if record and cell.teacher else None
        known = {one.id: Outline.of(one) for one in (record, teacher) if one}
        return cell.id in known and not outdated(known[cell.id], known)

    def _run(self, cell: Cell, lease: Lease, news: "News", together: Together | None) -> Generator[None, None, Outcome]:
        checkpoints = Checkpoints(self.store.work(cell.id))
        result: Ran | Failure
        try:
            self.ranks.given(cell)
            steps = running(cell, self.store, self.engine, self.data_folder, checkpoints, together, self.ranks)
            result = yield from self._watched(steps, checkpoints, lease, news)
        except Exception as error:
            if together and out_of_memory(error):
                return "alone"
            if self.ranks.world > 1 and self.stop.is_set():  # other ranks ended before they could be told to stop
                raise Interrupted from error
            why = self.ranks.trouble() or describe(error)
            self.broken = not usable(self.engine.device)
            result = failure(cell, why, traceback.format_exc(), self.engine)
        if not lease.holds():  # the process that has taken over writes the same
            return "elsewhere"
        if isinstance(result, Failure):
            self.store.fail(result)
            return "failed"
        record, weights = result
        before = self.store.record(cell.id)
        if before and before.result.weights != record.result.weights and cell.teacher is None:
            again = (
                f"{cell.id} was retrained and its weights changed: students of the old and the new teacher are not "
                "compared"
            )
            warnings.warn(f"{again}. '--retry outdated' retrains the old ones", stacklevel=2)
        self.store.finish(record, weights)
        self.store.clear(cell.id)
        return "finished"

    def _watched(
        self, steps: Running, checkpoints: Checkpoints, lease: Lease, news: "News"
    ) -> Generator[None, None, Ran]:
        while True:
            try:
                news.live = next(steps)
            except StopIteration as end:
                return end.value
            lost = lease.lost  # read once: the heartbeat's thread may change it
            written = self.stop.is_set() and checkpoints.every == 0
            if self.ranks.told(lost or written):
                raise Lost if lost else Interrupted
            if self.stop.is_set():
                checkpoints.every = 0.0  # a checkpoint is due after the next step
            yield


class News:
    """Reports the progress of a running cell to the launcher and to other processes."""

    def __init__(self, folder: Path, tell: Callable[[Status], None] | None) -> None:
        self.file, self.tell = folder / "status.json", tell
        self.live: Live | None = None
        self.phase, self.began, self.first = "", 0.0, 0.0  # since when, and the share done at that time
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spread, daemon=True)

    def __enter__(self) -> "News":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()  # the file stays: it has the progress of a stopped cell

    def _spread(self) -> None:
        written = time.monotonic()
        while not self._over.wait(0.5):
            with contextlib.suppress(OSError):  # a file server that is away for a while must not end the reports
                if status := self.status():
                    if self.tell:
                        self.tell(status)
                    if time.monotonic() - written > 2:
                        written = time.monotonic()
                        write(self.file, msgspec.json.encode(status))

    def status(self) -> Status | None:
        live = self.live
        if live is None:
            return None
        share = (live.epoch - 1 + live.step / live.steps) / live.epochs
        now = time.monotonic()
        if live.phase != self.phase:  # each phase has its own pace; a resumed cell's is measured from its checkpoint
            self.phase, self.began, self.first = live.phase, now, share
        gained = share - self.first
        left = (1 - share) * (now - self.began) / gained if gained > 0 else None
        return Status(live.phase, live.epoch, live.epochs, share, left)


def failure(cell: Cell, error: str, trace: str, engine: Engine | None) -> Failure:
    where = environment(engine, cell.training.precision) if engine else None
    return Failure(id=cell.id, cell=cell, error=error, traceback=trace, environment=where, failed=now())


def main(
    launcher: Connection, results: Path, data_folder: Path, engine: Engine, threads: int, files: list[Path]
) -> None:
    """A worker process: cells come in through the pipe, outcomes and live news go out."""
    torch.set_num_threads(threads)
    worker = Worker(Store(results), engine, data_folder)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    threading.Thread(target=_outlive, args=[worker.stop], daemon=True).start()
    for file in files:
        extensions.load(file)
    lock = threading.Lock()

    def say(kind: str, what: object) -> None:
        with lock, contextlib.suppress(OSError):  # a killed launcher is no failure of the cell
            launcher.send((kind, what))

    warnings.showwarning = lambda message, *_, **__: say("warning", str(message))
    try:
        while not worker.stop.is_set():
            if launcher.poll(0.2):
                cells, needs_weights, others = launcher.recv()
                with crew(engine, others, results, data_folder, files) as worker.ranks:
                    for cell, outcome in worker.work_on(cells, needs_weights, lambda *news: say("live", news)):
                        if worker.broken:
                            say("leaves", None)
                        say("outcome", (cell, outcome))
                if worker.broken:
                    return
    except (EOFError, ConnectionResetError, Interrupted):
        pass
    except OSError as error:  # the disk is full, and even the failure could not be written
        sys.exit(f"kdbench: {describe(error)}")


def _outlive(stop: threading.Event) -> None:
    """If the launcher is killed, stop as it would have asked, or at once after a grace period."""
    if launcher := multiprocessing.parent_process():
        launcher.join()
        stop.set()
        time.sleep(GRACE)
        os._exit(1)
