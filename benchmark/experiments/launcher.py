"""Run a plan on this machine: one worker process a device, teachers first, nobody stopped by another's failure."""

import contextlib
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments import worker
from kdbench.benchmark.experiments.agenda import Agenda
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.plan import Plan
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.worker import GRACE, Status
from kdbench.benchmark.training.engine import Compile, Engine


class Board(Protocol):
    """Who is told how a run goes on."""

    def total(self, cells: int) -> None: ...
    def live(self, cell: Cell, status: Status) -> None: ...
    def over(self, cell: Cell, outcome: str, reason: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass
class Desk:
    """A worker process, the launcher's end of its pipe, and the cell that it has."""

    process: BaseProcess
    pipe: Connection
    cell: Cell | None = None

    def give(self, cell: Cell, needs_weights: bool) -> None:
        self.cell = cell
        with contextlib.suppress(OSError):  # it has just died: reading from its pipe will say so
            self.pipe.send((cell, needs_weights))

    def take(self) -> Cell:
        cell, self.cell = self.cell, None
        assert cell is not None
        return cell


class Launcher:
    def __init__(self, store: Store, data_folder: Path, workers: int, board: Board, compile: Compile = "auto") -> None:
        self.store, self.data_folder, self.board = store, data_folder, board
        self.context = multiprocessing.get_context("spawn")
        self.threads = max(1, torch.get_num_threads() // workers)
        self.engines = _engines(workers, compile)
        self.desks: dict[int, Desk] = {}  # by the engine's place: a worker is started when there is a cell for it
        self.outcomes: Counter[str] = Counter()

    def launch(self, plan: Plan) -> Counter[str]:
        """Run what is missing, and what other processes have begun and may yet leave undone."""
        agenda = Agenda(plan)
        self.teachers = set(plan.grid.teachers)
        self.board.total(len(agenda))
        try:
            while len(agenda):
                for cell in agenda.blocked():
                    self._over(cell, "blocked", "its teacher is not there")
                for place in range(len(self.engines)):
                    if self._free(place) and (fresh := agenda.next()):
                        self._desk(place).give(fresh, needs_weights=fresh.id in self.teachers)
                for place, desk in self._heard():
                    if outcome := self._listen(place, desk):
                        self._settle(agenda, desk.take(), outcome)
        finally:
            self._close()
            self.store.tidy()
        return self.outcomes

    def _settle(self, agenda: Agenda, cell: Cell, outcome: str) -> None:
        if outcome == "elsewhere":
            agenda.elsewhere(cell)
        elif outcome == "finished":
            agenda.finished(cell)
            self._over(cell, outcome, "")
        else:
            agenda.failed(cell)
            failure = self.store.failure(cell.id)
            self._over(cell, outcome, failure.error if failure else "")

    def _over(self, cell: Cell, outcome: str, reason: str) -> None:
        self.outcomes[outcome] += 1
        self.board.over(cell, outcome, reason)

    def _free(self, place: int) -> bool:
        return place not in self.desks or self.desks[place].cell is None

    def _desk(self, place: int) -> Desk:
        if place not in self.desks:
            ours, theirs = self.context.Pipe()
            files = extensions.files()
            arguments = (theirs, self.store.folder, self.data_folder, self.engines[place], self.threads, files)
            process = self.context.Process(target=worker.main, args=arguments)
            with _deaf():
                process.start()
                self.desks[place] = Desk(process, ours)
            theirs.close()
        return self.desks[place]

    def _heard(self) -> list[tuple[int, Desk]]:
        pipes = wait([desk.pipe for desk in self.desks.values()], timeout=0.5)
        return [(place, desk) for place, desk in self.desks.items() if desk.pipe in pipes]

    def _listen(self, place: int, desk: Desk) -> str | None:
        """One message: the outcome of the desk's cell, or None while it goes on."""
        try:
            kind, what = desk.pipe.recv()
        except (EOFError, OSError):  # its end is closed, perhaps in the middle of a message
            del self.desks[place]
            return self._died(desk)
        if kind == "live" and desk.cell:
            self.board.live(desk.cell, what)
        elif kind == "warning":
            self.board.warn(what)
        return what if kind == "outcome" else None

    def _died(self, desk: Desk) -> str | None:
        """A worker that was killed takes its cell with it, and nothing else: another one will take its place."""
        desk.pipe.close()
        desk.process.join()
        code = desk.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        if desk.cell is None:
            return None
        self.store.fail(worker.failure(desk.cell, f"its process died ({how}{hint})", "", None))
        return "failed"

    def _close(self) -> None:
        """Workers at rest see the end of their pipe; those at work write a checkpoint first."""
        desks = list(self.desks.values())
        for desk in desks:
            if desk.cell and desk.process.is_alive():
                desk.process.terminate()
            else:
                desk.pipe.close()
        deadline = time.monotonic() + GRACE
        for desk in desks:
            while desk.process.is_alive() and time.monotonic() < deadline:
                if not desk.pipe.closed and desk.pipe.poll(0.1):  # news that nobody reads must not block them
                    try:
                        desk.pipe.recv()
                    except (EOFError, OSError):
                        break
                desk.process.join(0.1)
            if desk.process.is_alive():
                desk.process.kill()
            desk.process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which reaches the whole group: the launcher decides."""
    resource_tracker.ensure_running()  # by itself it would start in here, and unblock what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _engines(workers: int, compile: Compile) -> list[Engine]:
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [Engine(torch.device("cuda", i % count), compile=compile) for i in range(workers)]
    return [Engine(torch.device("cpu"), compile=compile) for _ in range(workers)]
