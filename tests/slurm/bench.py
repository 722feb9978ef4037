"""A grid, a site and a results folder of a test's own, whose jobs run on the private cluster."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import plan
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Result
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.runs.summary import live
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.slurm import queue
from kdbench.slurm.devcluster.cluster import DevCluster
from kdbench.slurm.submission import logs, waiting
from kdbench.slurm.submit import submit

Eventually = Callable[..., Any]

SMALL = """
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [ce, kd]
recipe: {base: quick, epochs: 1}
"""
LONG = """
files: SLOW
datasets: digits
students: resnet8x0.25
methods: [slow]
recipe: {base: quick, epochs: 30}
"""
SLOW = """
import os, time
from kdbench.methods.labels.ce import CrossEntropy
from kdbench.methods.method import METHODS

@METHODS.register("slow")
class Slow(CrossEntropy):
    def losses(self, student, teacher, batch):
        time.sleep(0.05 if "SLURM_JOB_ID" in os.environ else 0)  # on any machine there is time to disturb it
        return {}
"""
# Nothing is known of how long cells take: each has a job for itself.
SITE: dict[str, Any] = {"partition": "low", "gpus": 1, "cpus": 1, "memory": "2G", "minutes": 30, "at_once": 2}
UNDISTURBED: dict[str, Result] = {}
HELD = {"sbatch": {"hold": True}}


class Bench:
    def __init__(self, cluster: DevCluster, eventually: Eventually, folder: Path, slow: Path) -> None:
        self.cluster, self.eventually, self.folder, self.slow = cluster, eventually, folder, slow
        self.results = folder / 'it\'s "the" results'
        self.store = Store(self.results)

    def write(self, grid: str, **site: Any) -> None:
        (self.folder / "grid.yaml").write_text(grid.replace("SLOW", str(self.slow)))
        (self.folder / "site.yaml").write_bytes(msgspec.yaml.encode(SITE | site))

    def submit(self, **how: bool) -> str:
        return submit(load("grid.yaml"), "site.yaml", self.results, Path("data"), **how)

    def command(self, *words: str | Path) -> "subprocess.Popen[str]":
        words = (sys.executable, "-m", "kdbench.benchmark.cli", *words, "--results", self.results)
        return subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def plan(self) -> Any:
        return plan(load("grid.yaml"), self.store)

    def counts(self) -> dict[str, int]:
        return {state: count for state, count in self.plan.counts().items() if count}

    def ask(self, *command: str) -> list[str]:
        return self.cluster.ask(*command).splitlines()

    def empty(self, seconds: float = 120) -> None:
        """Wait until nothing of it is in the queue."""
        self.eventually(lambda: not self.ask("squeue", "--noheader"), seconds)

    def began(self, cell: Cell) -> None:
        """Wait until the cell's training has come some epochs far."""

        def epochs() -> bool:
            entry = next(entry for entry in self.plan.entries if entry.cell.id == cell.id)
            status = live(entry, self.results)
            return status is not None and status.epoch > 2

        self.eventually(epochs, 120)

    def job_of(self, cell: Cell) -> queue.Queued | None:
        return waiting(self.store, queue.queued()).get(cell.id)

    def log(self, cell: Cell) -> str:
        return "".join(file.read_text() for file in logs(self.store, cell.id))

    def undisturbed(self, cell: Cell) -> Result:
        """The same cell in this very process."""
        if cell.id not in UNDISTURBED:
            record, _ = run(cell, self.store, Engine.best(), Path("data"), Checkpoints(self.folder / "undisturbed"))
            UNDISTURBED[cell.id] = record.result
        return UNDISTURBED[cell.id]

    def result(self, cell: Cell) -> Result:
        record = self.store.record(cell.id)
        assert record is not None, self.log(cell)
        return record.result
