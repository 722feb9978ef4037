"""Runs a plan on this machine: one worker process per device, teachers first. A failed cell stops no other cell."""

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
from kdbench.benchmark.plans.agenda import Agenda
from kdbench.benchmark.plans.plan import Plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import worker
from kdbench.benchmark.runs.worker import GRACE, Status
from kdbench.benchmark.training.engine import Engine
from kdbench.refusal import Refusal

# Cells of one pair that take turns in a process and query the teacher once. Only on a CPU: it was never measured on a
# GPU, and a compiled step is compiled for one cell.
TOGETHER = 4


class Board(Protocol):
    """Receives the progress of a run."""

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
    leaves: bool = False  # it cannot run another cell
    others: Sequence[int] = ()  # the places that it occupies for the other ranks of its cell

    def give(self, cells: list[Cell], needs_weights: bool, others: Sequence[int], engines: Sequence[Engine]) -> None:
        self.cells, self.others = cells, others
        with contextlib.suppress(OSError):  # it has just died: reading from its pipe will show that
            self.pipe.send((cells, needs_weights, [engines[place] for place in others]))


class Launcher:
    def __init__(self, store: Store, data_folder: Path, workers: int, board: Board, **settings: Any) -> None:
        """``settings`` are passed to the engines."""
        self.store, self.data_folder, self.board = store, data_folder, board
        self.context = multiprocessing.get_context("spawn")
        self.threads = max(1, torch.get_num_threads() // workers)
        self.engines = engines(workers, **settings)
        self.desks: dict[int, Desk] = {}  # by the engine's place; a worker starts when there is a cell for it
        self.outcomes: Counter[str] = Counter()

    def launch(self, plan: Plan) -> Counter[str]:
        """Run the missing cells, and those that other processes have begun but may not finish."""
        agenda = Agenda(plan)
        self.teachers = set(plan.grid.teachers)
        self.board.total(len(agenda))
        try:
            while len(agenda):
                for cell in agenda.blocked():
                    self._over(cell, "blocked", "its teacher is missing")
                while (free := self._free()) and (fresh := agenda.next(len(free))):
                    place, *others = free[: fresh.world]
                    cells = [fresh, *agenda.beside(fresh, self._company(agenda))]
                    self._desk(place).give(cells, fresh.id in self.teachers, others, self.engines)
                for place, desk in self._heard():
                    for cell, outcome in self._listen(place, desk):
                        desk.cells.remove(cell)
                        if (desk.others or desk.leaves) and not desk.cells:
                            self._dismiss(place)
                        self._settle(agenda, cell, outcome)
        finally:
            self._close()
            self.store.tidy()
        return self.outcomes

    def _company(self, agenda: Agenda) -> int:
        """How many more cells a worker may get. Every worker gets one cell first."""
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
        """End a worker that was one of several ranks, or that has lost its GPU: it is not used again."""
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
        """Handle one message. Returns the outcome of a cell, or nothing while all cells continue."""
        try:
            kind, what = desk.pipe.recv()
        except (EOFError, OSError):  # the worker's end is closed, perhaps in the middle of a message
            del self.desks[place]
            return self._died(desk)
        if kind == "live":
            self.board.live(*what)
        elif kind == "warning":
            self.board.warn(what)
        elif kind == "leaves":
            desk.leaves = True
        return [what] if kind == "outcome" else []

    def _died(self, desk: Desk) -> list[tuple[Cell, str]]:
        """A worker that was killed loses its cell and nothing else. Another worker takes its place."""
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
        """Stop all workers. Idle ones see the end of their pipe; busy ones write a checkpoint first."""
        desks = list(self.desks.values())
        for desk in desks:
            if desk.cells and desk.process.is_alive():
                desk.process.terminate()
            else:
                desk.pipe.close()
        deadline = time.monotonic() + GRACE
        for desk in desks:
            while desk.process.is_alive() and time.monotonic() < deadline:
                if not desk.pipe.closed and desk.pipe.poll(0.1):  # unread messages must not block the worker
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
    """Processes that start in this block ignore Ctrl-C, which reaches the whole process group: the launcher decides."""
    resource_tracker.ensure_running()  # otherwise it would start in this block, and unblock the signal
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
    """How many processes may train at once: one per GPU; without GPUs, as many as a cell needs."""
    gpus = torch.cuda.device_count()
    count = workers or gpus or world
    if world > 1 and gpus:  # ranks of one cell never share a GPU
        count = min(count, gpus)
    if world > count:
        kind = "GPUs" if gpus else "workers"
        raise Refusal(f"{name}: a cell of world {world} must have as many {kind}, got {count}")
    return count
