"""A grid that is killed at any moment and run again ends with the same records; two runs share one without a clash."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdbench.benchmark.records.record import same_bits
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine

MakeCommand = Callable[..., Any]
CRASH = Path(__file__).with_name("crash.py")

GRID = """
files: mine.py
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [ce, kd]
recipe: {base: quick, epochs: 3}
seeds: 2
"""

# A user's file is loaded by the workers too: this one looks over their shoulders. It saves often; with KILL=n,
# the n-th time that a record is about to be renamed into its place, all processes of the run are killed. With PROOF, a
# file shows that a cell is being run: where another has made it, that is an error.
MINE = """
import os, signal
from pathlib import Path
from kdbench.benchmark.records import store
from kdbench.benchmark.runs import worker
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.methods.method import METHODS, Method

@METHODS.register("mine")
class Mine(Method):
    source = "logits"

    def losses(self, student, teacher, batch):
        return {}

Checkpoints.__init__.__defaults__ = (0.1,)
kill, fsync, running = int(os.environ.get("KILL", 0)), os.fsync, worker.running

def counted(descriptor):
    global kill
    fsync(descriptor)
    kill -= "records" in os.readlink(f"/proc/self/fd/{descriptor}")
    if kill == 0 and "KILL" in os.environ:
        os.killpg(0, signal.SIGKILL)

def proved(cell, *rest):
    if "PROOF" in os.environ:
        proof = Path(os.environ["PROOF"])
        os.close(os.open(proof / cell.id, os.O_CREAT | os.O_EXCL))
        with (proof / "log").open("a") as log:
            log.write(cell.id + "\\n")
    result = yield from running(cell, *rest)
    if "PROOF" in os.environ:
        (proof / cell.id).unlink()
    return result

os.fsync, worker.running = counted, proved
"""


def assert_same(store: Store, whole: Store) -> None:
    found, expected = store.records(), whole.records()
    assert found.keys() == expected.keys()
    assert all(same_bits(found[key].result, expected[key].result) for key in expected)
    assert store.troubles == whole.troubles == []
    assert store.failures() == {}
    assert [file.name for file in store.folder.glob("work/*") if file.name != "outlines"] == []


def test_twenty_kills_at_any_step_and_any_change_of_a_file_change_no_bit(tmp_path: Path) -> None:
    kills = subprocess.run(
        [sys.executable, CRASH, tmp_path, "1", "20"], stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    whole = Store(tmp_path / "whole")
    assert len(whole.records()) == 5
    for number in range(int(kills.stdout)):
        assert_same(Store(tmp_path / f"killed{number}"), whole)


def test_the_whole_command_killed_and_run_again_ends_with_the_bits_of_an_undisturbed_run(
    command: MakeCommand, tmp_path: Path
) -> None:
    mine = command(grid_yaml=GRID, mine_py=MINE)
    process = mine.start("grid.yaml", KILL=2)  # while its second record is written
    process.communicate()
    assert process.returncode == -9
    mine.wait(lambda: not mine.alive(process))
    assert len(mine.store.records()) == 1
    process = mine.start("grid.yaml")  # while its worker has a cell
    mine.wait(lambda: mine.holder() in mine.alive(process))
    time.sleep(random.Random(2).uniform(0, 1.5))
    mine.kill(process)
    code, _, err = mine.run("grid.yaml")
    assert (code, err) == (0, "")
    records = mine.store.records()
    assert len(records) == 5

    whole = Store(tmp_path / "whole")
    for record in sorted(records.values(), key=lambda record: record.cell.teacher is not None):
        scratch = Checkpoints(tmp_path / "scratch" / record.id)
        whole.finish(*run(record.cell, whole, Engine(torch.device("cpu")), Path(), scratch))
    assert_same(mine.store, whole)


def test_two_runs_of_a_grid_at_once_do_every_cell_once(command: MakeCommand, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    proof.mkdir()
    mine = command(grid_yaml=GRID.replace("seeds: 2", "seeds: 4"), mine_py=MINE)
    both = [mine.start("grid.yaml", PROOF=proof) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert "9 of 9 cells to run" in out and "9 finished" in out
    log = (proof / "log").read_text().split()
    assert len(log) == 9
    assert set(log) == mine.store.records().keys()
    code, out, _ = mine.run("grid.yaml", PROOF=proof)
    assert code == 0
    assert "Nothing is left to run." in out
    assert (proof / "log").read_text().split() == log
