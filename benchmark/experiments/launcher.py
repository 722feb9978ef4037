"""Run a plan on this machine: one worker process a device, teachers first, nobody stopped by another's failure."""

import contextlib
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments import worker
from kdbench.benchmark.experiments.agenda import Agenda
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.plan import Plan
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.worker import GRACE, Status
from kdbench.benchmark.training.engine import Engine
from kdbench.refusal import Refusal

# Cells of one pair that take turns in a process, and ask the teacher once. On a CPU: nobody has measured it on a GPU,
# and what is compiled is compiled for one cell.
TOGETHER = 4


class Board(Protocol):
    """Who is told how a run goes on."""

    def total(self, cells: int) -> None: ...
    def live(self, cell: Cell, status: Status) -> None: ...
    def over(self, cell: Cell, outcome: str, reason: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass
class Desk:
    """A worker process, the launcher's end of its pipe, and the cells that it has."""

    process: BaseProcess
    pipe: Connection
    cells: list[Cell] = field(default_factory=list)
    others: Sequence[int] = ()  # the places that it has taken for the other ranks of its cell

    def give(self, cells: list[Cell], needs_weights: bool, others: Sequence[int], engines: Sequence[Engine]) -> None:
        self.cells, self.others = cells, others
        with contextlib.suppress(OSError):  # it has just died: reading from its pipe will say so
            self.pipe.send((cells, needs_weights, [engines[place] for place in others]))


class Launcher:
    def __init__(self, store: Store, data_folder: Path, workers: int, board: Board, **settings: Any) -> None:
        """``settings`` are the engines'."""
        self.store, self.data_folder, self.board = store, data_folder, board
        self.context = multiprocessing.get_context("spawn")
        self.threads = max(1, torch.get_num_threads() // workers)
        self.engines = engines(workers, **settings)
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
                while (free := self._free()) and (fresh := agenda.next(len(free))):
                    place, *others = free[: fresh.world]
                    cells = [fresh, *agenda.beside(fresh, self._company(agenda))]
                    self._desk(place).give(cells, fresh.id in self.teachers, others, self.engines)
                for place, desk in self._heard():
                    for cell, outcome in self._listen(place, desk):
                        desk.cells.remove(cell)
                        if desk.others:
                            self._dismiss(place)
                        self._settle(agenda, cell, outcome)
        finally:
            self._close()
            self.store.tidy()
        return self.outcomes

    def _company(self, agenda: Agenda) -> int:
        """How many more may sit at a desk; there is one for everyone first."""
        alone = any(engine.device.type == "cuda" or engine.compile == "on" for engine in self.engines)
        return 0 if alone else min(TOGETHER - 1, len(agenda.waiting) // len(self.engines))

    def _settle(self, agenda: Agenda, cell: Cell, outcome: str) -> None:
        if outcome == "elsewhere":
            agenda.elsewhere(cell)
        elif outcome == "finished":
            agenda.finished(cell)
            self._over(cell, outcome, "")
        elif outcome == "alone":
            agenda.alone(cell)
        else:
            agenda.failed(cell)
            failure = self.store.failure(cell.id)
            self._over(cell, outcome, failure.error if failure else "")

    def _over(self, cell: Cell, outcome: str, reason: str) -> None:
        self.outcomes[outcome] += 1
        self.board.over(cell, outcome, reason)

    def _free(self) -> list[int]:
        taken = {place for at, desk in self.desks.items() if desk.cells for place in (at, *desk.others)}
        return [place for place in range(len(self.engines)) if place not in taken]

    def _dismiss(self, place: int) -> None:
        """A process that was one of several ranks is none to go on with."""
        if desk := self.desks.pop(place, None):
            desk.pipe.close()
            desk.process.join(GRACE)
            desk.process.kill()

    def _desk(self, place: int) -> Desk:
        if place not in self.desks:
            ours, theirs = self.context.Pipe()
            files = extensions.files()
            arguments = (theirs, self.store.folder, self.data_folder, self.engines[place], self.threads, files)
            process = self.context.Process(target=worker.main, args=arguments)
            with deaf():
                process.start()
                self.desks[place] = Desk(process, ours)
            theirs.close()
        return self.desks[place]

    def _heard(self) -> list[tuple[int, Desk]]:
        pipes = wait([desk.pipe for desk in self.desks.values()], timeout=0.5)
        return [(place, desk) for place, desk in self.desks.items() if desk.pipe in pipes]

    def _listen(self, place: int, desk: Desk) -> list[tuple[Cell, str]]:
        """One message: what became of a cell, or nothing while all go on."""
        try:
            kind, what = desk.pipe.recv()
        except (EOFError, OSError):  # its end is closed, perhaps in the middle of a message
            del self.desks[place]
            return self._died(desk)
        if kind == "live":
            self.board.live(*what)
        elif kind == "warning":
            self.board.warn(what)
        return [what] if kind == "outcome" else []

    def _died(self, desk: Desk) -> list[tuple[Cell, str]]:
        """A worker that was killed takes its cell with it, and nothing else: another one will take its place."""
        desk.pipe.close()
        desk.process.join()
        code = desk.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ": out of memory?" if code == -signal.SIGKILL else ""
        if len(desk.cells) > 1:
            return [(cell, "alone") for cell in desk.cells]
        for cell in desk.cells:
            self.store.fail(worker.failure(cell, f"its process died ({how}{hint})", "", None))
        return [(cell, "failed") for cell in desk.cells]

    def _close(self) -> None:
        """Workers at rest see the end of their pipe; those at work write a checkpoint first."""
        desks = list(self.desks.values())
        for desk in desks:
            if desk.cells and desk.process.is_alive():
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
def deaf() -> Iterator[None]:
    """What is started here never hears Ctrl-C, which reaches the whole group: the launcher decides."""
    resource_tracker.ensure_running()  # by itself it would start in here, and unblock what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def engines(workers: int, **settings: Any) -> list[Engine]:
    gpus = torch.cuda.device_count()
    devices = [torch.device("cuda", i % gpus) if gpus else torch.device("cpu") for i in range(workers)]
    return [Engine(device, **settings) for device in devices]


def places(name: str, workers: int | None, world: int) -> int:
    """How many processes may train at once: a GPU each; without GPUs as many as a cell needs."""
    gpus = torch.cuda.device_count()
    count = workers or gpus or world
    if world > 1 and gpus:  # ranks of one cell never share a GPU
        count = min(count, gpus)
    if world > count:
        kind = "GPUs" if gpus else "workers"
        raise Refusal(f"{name}: a cell of world {world} must have as many {kind}, got {count}")
    return count
