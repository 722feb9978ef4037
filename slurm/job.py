"""The code that runs on a node: a few cells, one after the other, each resumed from its checkpoint."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import submitit
import torch
from submitit.helpers import DelayedSubmission

from kdbench.benchmark import extensions
from kdbench.benchmark.data.staged import staged
from kdbench.benchmark.plans.agenda import ASK_AGAIN
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import PATIENCE
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.crew import Interrupted, follow
from kdbench.benchmark.runs.worker import Worker
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.portable import portable
from kdbench.slurm.snapshot import WITHIN

CODE = "KDBENCH_CODE"  # where this job has unpacked the code of its submission
AGAIN = 75  # the exit code that asks the batch script to put the job back into the queue


class Job:
    """The work of one job, in plain text: small enough to be pickled."""

    def __init__(
        self,
        cells: Sequence[Cell],
        results: Path,
        data: Path,
        scratch: str | None = None,
        *,
        teachers: bool,
        **settings: Any,
    ) -> None:
        self.cells = msgspec.json.encode(list(cells))
        self.results, self.data, self.scratch = str(results), str(data), scratch
        self.files = [file.name for file in extensions.files()]
        self.teachers, self.settings = teachers, settings
        self.world = max((cell.world for cell in cells), default=1)

    def __call__(self) -> dict[str, str]:
        """Run all cells and return their outcomes. No cell stops another; one that another job runs is left to it."""
        if not portable():  # a portable run has one thread, however many cores the job has
            torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", torch.get_num_threads())))
        for name in self.files:
            extensions.load(Path(os.environ[CODE]) / WITHIN / name)
        print(place(), flush=True)
        store = Store(Path(self.results))
        left = msgspec.json.decode(self.cells, type=list[Cell])
        engine, ranks = self._ranks()
        if ranks.rank:
            follow(ranks, store, engine, self._data_of(left[0]))
            return {}
        worker = Worker(store, engine, Path(self.data))
        worker.ranks = ranks
        bell = Bell(worker)
        outcomes: dict[str, str] = {}
        # By then the lease of a killed job has expired. The job waits even for its own lease from before a requeue: a
        # node that was wrongly believed dead may still run the cell.
        give_up = time.monotonic() + 2 * PATIENCE
        with contextlib.suppress(Interrupted):
            while left and not worker.stop.is_set():
                last = time.monotonic() >= give_up  # read first: the cells may take hours
                for cell in left:
                    outcomes[cell.id] = self._work(worker, store, cell)
                    print(f"{outcomes[cell.id]}  {cell.id}", flush=True)
                    if worker.broken:
                        print("this process has lost its GPU, and the job goes back into the queue", flush=True)
                        sys.exit(AGAIN)
                left = [cell for cell in left if outcomes[cell.id] == "elsewhere" and not last]
                if left:
                    worker.stop.wait(ASK_AGAIN)
        if worker.stop.is_set():
            bell.leave()
        if "failed" not in outcomes.values():
            ranks.given(None)  # there are no more cells
        return outcomes

    def _ranks(self) -> tuple[Engine, Ranks]:
        """This task's engine, and its rank among the tasks of the job."""
        engine = Engine.best(**self.settings)
        if self.world == 1:
            return engine, ALONE
        rank = submitit.JobEnvironment().global_rank
        if engine.device.type == "cuda":  # some clusters show a task only its own GPU
            engine = replace(engine, device=torch.device("cuda", rank % torch.cuda.device_count()))
        # Each start of the job has its own folder: after a requeue nothing waits for processes of an earlier start.
        return engine, Ranks.join(rank, self.world, Path(os.environ[CODE]) / "meeting", engine.device)

    def _data_of(self, cell: Cell) -> Path:
        if self.scratch is None:
            return Path(self.data)
        scratch = Path(os.path.expandvars(self.scratch))
        if not scratch.is_absolute():  # this node lacks a variable
            print(f"{cell.dataset} is read from {self.data}: this node has no folder {self.scratch}", flush=True)
            return Path(self.data)
        folder, why = staged(cell.dataset, Path(self.data), scratch)
        print(why, flush=True)
        return folder

    def _work(self, worker: Worker, store: Store, cell: Cell) -> str:
        if cell.teacher and not (store.record(cell.teacher.id) and store.weights(cell.teacher).exists()):
            return "blocked"  # its teacher failed, the cell itself did not
        worker.data_folder = self._data_of(cell)
        outcome = worker.work(cell, needs_weights=self.teachers)
        if outcome == "failed" and (failure := store.failure(cell.id)):
            print(failure.traceback)
        return outcome

    def checkpoint(self) -> DelayedSubmission:
        """For a signal that arrives before our handlers are set: nothing has started yet."""
        return DelayedSubmission(self)


def place() -> str:
    """Where a job runs and what it got, which is not always what was asked for."""
    told = os.environ.get
    node, gpus = told("SLURMD_NODENAME", ""), told("CUDA_VISIBLE_DEVICES", "none")
    times = told("SLURM_RESTART_COUNT", "0")
    return f"on {node}: {len(os.sched_getaffinity(0))} cores, GPUs {gpus}, requeued {times} times"


class Bell:
    """Handles the scheduler's signals. A cell writes a checkpoint at its next step. If the job's time is up, it goes
    back into the queue. SLURM itself requeues a preempted job, and a cancelled job must not come back."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.again = False
        signal.signal(signal.SIGUSR2, self._time_is_up)
        signal.signal(signal.SIGTERM, self._ends)

    def _time_is_up(self, *_: object) -> None:
        self.again = True
        self.worker.stop.set()

    def _ends(self, *_: object) -> None:
        self.worker.stop.set()

    def leave(self) -> None:
        """Exit. The batch script asks for the requeue, since a container has no scontrol."""
        sys.exit(AGAIN if self.again else "stopped by the scheduler; the next submit resumes from here")
