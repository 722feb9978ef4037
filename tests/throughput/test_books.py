"""The cost of book-keeping: the time of --help, and the plan of a grid with a record for each cell."""

import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.benchmark.plans.plan import State, plan
from kdbench.benchmark.records.store import Store
from tests.throughput import synthetic

CELLS = 100_000


def test_synthetic_records_are_believed_and_those_of_their_grid(tmp_path: Path) -> None:
    grid, store = synthetic.grid(tmp_path, 1000), Store(tmp_path / "results")
    assert synthetic.fill(store.folder, grid) > 900
    counts = plan(grid, store).counts()
    assert counts[State.FINISHED] == sum(counts.values()) == len(grid.cells) + len(grid.teachers)
    assert store.troubles == []


def test_help(benchmark: BenchmarkFixture) -> None:
    words = [sys.executable, "-m", "kdbench.benchmark.cli", "--help"]
    benchmark.pedantic(lambda: subprocess.run(words, check=True, capture_output=True), rounds=5, warmup_rounds=1)


def test_plan_of_100_000_cells(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    grid = synthetic.grid(tmp_path, CELLS)
    filled = synthetic.fill(tmp_path / "results", grid)
    made = benchmark.pedantic(lambda: plan(grid, Store(tmp_path / "results")), rounds=1)
    assert made.counts()[State.FINISHED] == filled
