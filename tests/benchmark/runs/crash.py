"""A grid whose runs are killed: ``crash.py <folder> <seed> <kills>``; and what an undisturbed run left, in ``whole/``.

One parent imports torch and forks. Each child goes on with the grid until it kills itself at a moment drawn from the
seed: at a training step, or at a system call by which a file comes, goes or changes its name, before it or after it.
"""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdbench.benchmark.plans.agenda import Agenda
from kdbench.benchmark.plans.grid import Grid, load
from kdbench.benchmark.plans.plan import plan
from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import worker as worker_module
from kdbench.benchmark.runs.worker import Worker
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine

GRID = """
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [ce, kd]
recipe: {base: quick, epochs: 2, batch: 60}
seeds: 2
"""

Reached = Callable[[str], None]


def work(grid: Grid, results: Path) -> None:
    """What the launcher and its worker do, in one process."""
    store = Store(results)
    agenda = Agenda(plan(grid, store))
    worker = Worker(store, Engine(torch.device("cpu")), Path())
    while cell := agenda.next():
        outcome = worker.work(cell, needs_weights=cell.id in grid.teachers)
        assert outcome == "finished", (outcome, store.failures())
        agenda.finished(cell)
    assert len(agenda) == 0
    store.tidy()
    assert store.troubles == [], store.troubles


def hook(reached: Reached) -> None:
    """Tell of every moment: which kind it is, and where it lies."""
    Checkpoints.__init__.__defaults__ = (0.0,)  # one every step
    store_module.PACK_FROM = 2
    real_running = worker_module.running

    def running(*args: Any) -> Any:
        steps = real_running(*args)
        while True:
            try:
                live = next(steps)
            except StopIteration as end:
                return end.value
            reached("step")
            yield live

    worker_module.running = running

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            kind = "checkpoint" if "checkpoint" in str(args[0]) or saving else "store"
            reached(kind)
            result = real(*args, **kwargs)
            reached(kind)
            return result

        setattr(owner, name, hooked)

    saving: list[bool] = []
    real_save = Checkpoints.save

    def save(self: Checkpoints, state: Any) -> None:
        saving.append(True)
        real_save(self, state)
        saving.pop()

    Checkpoints.save = save  # type: ignore[method-assign]
    for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")):
        around(owner, name)


def child(grid: Grid, results: Path, kind: str, count: int) -> None:
    torch.set_num_threads(1)
    left = count

    def reached(moment: str) -> None:
        nonlocal left
        left -= moment == kind
        if kind and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    hook(reached)
    work(grid, results)


def main(folder: Path, seed: int, kills: int) -> None:
    (folder / "grid.yaml").write_text(GRID)
    grid, draw = load(str(folder / "grid.yaml")), random.Random(seed)
    context = multiprocessing.get_context("fork")

    def run(results: str, kind: str = "", count: int = 0) -> bool:
        """Did it come to its end?"""
        process = context.Process(target=child, args=(grid, folder / results, kind, count))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        return process.exitcode == 0

    assert run("whole")
    farthest = {"step": 12, "checkpoint": 60, "store": 40}  # a cell has 10 steps and about 20 changes of files
    results, done = 0, 0
    while done < kills:
        kind = draw.choice(["step", "checkpoint", "store", "store"])
        ended = run(f"killed{results}", kind, draw.randint(1, farthest[kind]))
        done += not ended
        results += ended  # the next kills go to a fresh folder
    assert run(f"killed{results}")
    print(results + 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
