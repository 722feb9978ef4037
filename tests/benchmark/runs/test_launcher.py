"""``kdbench run`` with real worker processes: a cell that fails stops nobody, and whoever stops a run can go on."""

import itertools
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import plan
from kdbench.benchmark.records.lease import held
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs import local
from kdbench.benchmark.runs.summary import status_text
from kdbench.benchmark.runs.worker import failure
from kdbench.benchmark.training import checkpoint
from kdbench.refusal import Refusal

MakeCommand, MakeRecord = Callable[..., Any], Callable[..., Record]

# Methods of a user's own. Each does its worst in the second step, where it is told to by its environment.
MINE = """
import os, signal
import torch
from kdbench.methods.method import METHODS, Method

class Wicked(Method):
    source = "logits"
    steps = 0

    def losses(self, student, teacher, batch):
        self.steps += 1
        if self.steps == 2 and "WICKED" in os.environ:
            return {"wicked": self.strike(student.logits)}
        return {"wicked": 0.0 * student.logits.sum()}

@METHODS.register("raises")
class Raises(Wicked):
    def strike(self, logits):
        raise ValueError("a mistake\\nof the user's")

@METHODS.register("nan")
class NaN(Wicked):
    def strike(self, logits):
        return logits.sum() * float("nan")

@METHODS.register("dies")
class Dies(Wicked):
    def strike(self, logits):
        os.kill(os.getpid(), signal.SIGKILL)

@METHODS.register("greedy")
class Greedy(Wicked):
    def strike(self, logits):
        return torch.empty(2**60)
"""

# After it the process can load nothing any more, as one that has lost its GPU.
LOSES = """
from kdbench.benchmark.runs import run, worker
from kdbench.methods.method import METHODS, Method

def lost(*_):
    raise RuntimeError("CUDA error")

@METHODS.register("loses")
class Loses(Method):
    source = "logits"

    def losses(self, student, teacher, batch):
        worker.usable = lambda device: False
        run.load_data = lost
        raise RuntimeError("illegal memory access")
"""

WICKED = ["raises", "nan", "dies", "greedy"]

GRID = f"""
files: mine.py
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [{", ".join(WICKED)}, ce, kd]
recipe: {{base: quick, epochs: 1}}
"""

LONG = """
datasets: digits
pairs: resnet8 -> resnet8x0.25
methods: [kd]
recipe: {base: quick, epochs: 5000}
"""


def outcomes(output: str) -> dict[str, str]:
    """What became of each method's cell, the teacher's among them."""
    lines = re.findall(r"^(finished|failed|blocked)  digits-(.*)-s0-\w{12}(.*)$", output, flags=re.MULTILINE)
    return {name.removeprefix("resnet8-resnet8x0.25-"): outcome + rest for outcome, name, rest in lines}


WORLDS = pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])


@WORLDS
def test_a_cell_that_fails_in_whatever_way_leaves_its_reason_and_the_others_finish(
    command: MakeCommand, world: int
) -> None:
    mine = command(grid_yaml=GRID + f"world: {world}\n", mine_py=MINE)
    code, out, err = mine.run("grid.yaml", "--workers", 2, WICKED="yes")
    assert code == 1
    told = outcomes(out)
    assert {name for name, outcome in told.items() if outcome == "finished"} == {"resnet8-ce", "resnet8x0.25-ce", "kd"}
    assert told["raises"] == "failed: ValueError: a mistake of the user's (mine.py, line 19)"
    assert told["nan"].startswith("failed: Diverged: the loss is no longer a number in epoch 1")
    assert told["dies"] == "failed: its process died (SIGKILL: out of memory?)"
    assert told["greedy"].startswith("failed: ran out of memory: ")
    assert "3 finished" in out and "4 failed" in out
    assert "Traceback" not in err

    failures = mine.store.failures()
    assert {failure.cell.method: f"failed: {failure.error}" for failure in failures.values()} == {
        name: told[name] for name in WICKED
    }
    assert "strike" in next(f.traceback for f in failures.values() if f.cell.method == "raises")
    assert not any(held(folder) for folder in mine.store.folder.glob("work/*"))

    # Again, with --retry: they alone are run.
    before = mine.store.records()
    code, out, err = mine.run("grid.yaml", "--retry", "failed")
    assert (code, err) == (0, "")
    assert outcomes(out) == dict.fromkeys(WICKED, "finished")
    assert mine.store.failures() == {}
    after = mine.store.records()
    assert len(after) == 7
    assert {key: after[key] for key in before} == before


def test_a_worker_that_has_lost_its_gpu_is_replaced(command: MakeCommand) -> None:
    grid = "{files: mine.py, datasets: digits, pairs: resnet8 -> resnet8x0.25, methods: loses, seeds: 2,"
    mine = command(grid_yaml=grid + " recipe: {base: quick, epochs: 1}}\n", mine_py=LOSES)
    code, out, _ = mine.run("grid.yaml", "--workers", 1)
    assert code == 1
    assert "2 failed" in out
    assert {failure.error for failure in mine.store.failures().values()} == {
        "RuntimeError: illegal memory access (mine.py, line 15)"  # the second one too, and not "CUDA error"
    }


def test_a_retry_that_is_refused_forgets_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(*_: object) -> None:
        raise Refusal("no data set is here")

    monkeypatch.setattr(local.data, "load", unread)
    (tmp_path / "grid.yaml").write_text("{datasets: digits, students: resnet8x0.25, methods: ce, recipe: quick}")
    grid, store = load(str(tmp_path / "grid.yaml")), Store(tmp_path)
    store.fail(failure(grid.cells[0], "a mistake", "its traceback", None))
    with pytest.raises(Refusal, match="no data set is here"):
        local.run_grid(grid, tmp_path, tmp_path, retry="failed")
    assert [failed.error for failed in store.failures().values()] == ["a mistake"]


def test_a_teacher_whose_weights_are_damaged_is_trained_again_and_no_student_fails_for_it(
    command: MakeCommand,
) -> None:
    mine = command(grid_yaml=LONG.replace("epochs: 5000", "epochs: 1"))
    assert mine.run("grid.yaml")[0] == 0
    (student,) = mine.store.records_folder.glob("*-kd-*")
    (weights,) = (mine.store.folder / "teachers").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    student.unlink()
    code, _, err = mine.run("grid.yaml")
    assert code == 0 and "is set aside as" in err
    assert weights.read_bytes() == whole and student.exists()


def test_a_run_says_how_many_students_its_new_teachers_have_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_record: MakeRecord
) -> None:
    (tmp_path / "grid.yaml").write_text(
        "{datasets: digits, pairs: resnet8 -> resnet8x0.25, methods: [kd, clkd], recipe: quick}"
    )
    grid, store = load(str(tmp_path / "grid.yaml")), Store(tmp_path)
    (teacher,) = grid.teachers.values()
    store.finish(make_record(grid.cells[0]))

    def launch(*_: object) -> Counter[str]:
        store.finish(make_record(teacher, weights="n" * 32), b"weights")
        store.finish(make_record(grid.cells[1], teacher_weights="n" * 32))
        return Counter(finished=2)

    monkeypatch.setattr(local.Launcher, "launch", launch)
    assert local.run_grid(grid, tmp_path, tmp_path) == 0
    assert "Outdated: 1 cell; run again with --retry outdated.\n" in capsys.readouterr().out
    assert local.run_grid(grid, tmp_path, tmp_path) == 0
    assert capsys.readouterr().out.endswith("--retry outdated.\nNothing is left to run.\n")


@pytest.mark.slow
def test_folders_of_images_are_decoded_for_every_rank(command: MakeCommand) -> None:
    mine = command(
        grid_yaml="{datasets: 'imagefolder:images@16', students: resnet8x0.25, methods: ce, world: 2,"
        " recipe: {epochs: 1, batch: 4, schedule: constant}}"
    )
    for part, number in itertools.product(("train", "val"), range(8)):
        (folder := mine.folder / "images" / part / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.png")
    code, out, err = mine.run("grid.yaml")
    assert (code, err) == (0, ""), out


def test_a_teacher_that_fails_blocks_its_students_and_nobody_else(command: MakeCommand) -> None:
    grid = GRID.replace(", ".join(WICKED), "raises") + "teacher_recipe: {base: quick, epochs: 1, lr: 1.0e+15}\n"
    mine = command(grid_yaml=grid, mine_py=MINE)
    code, out, _ = mine.run("grid.yaml")
    told = outcomes(out)
    assert code == 1
    assert told.pop("resnet8-ce").startswith("failed: Diverged")
    assert told == {"resnet8x0.25-ce": "finished"} | dict.fromkeys(["raises", "kd"], "blocked: its teacher is missing")
    code, out, _ = mine.run("grid.yaml")  # again: the failure stands, and is not tried
    assert code == 1
    assert outcomes(out) == dict.fromkeys(["raises", "kd"], "blocked: its teacher is missing")


FULL = """
from kdbench.benchmark.records.store import Store

def full(*_):
    raise OSError(28, "No space left on device")

Store.fail = full
"""


def test_a_failure_that_cannot_be_written_ends_the_run_in_a_sentence(command: MakeCommand) -> None:
    mine = command(grid_yaml=f"{GRID}teacher_recipe: {{base: quick, epochs: 1, lr: 1.0e+15}}\n", mine_py=MINE + FULL)
    code, _, err = mine.run("grid.yaml")
    assert (code, err.splitlines()) == (2, [
        "kdbench: OSError: [Errno 28] No space left on device (mine.py, line 39)", "kdbench: No space left on device"
    ])  # fmt: skip


def stopped(mine: Any, process: subprocess.Popen[str]) -> None:
    """It ends as it should, and leaves nothing that runs."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "kdbench: stopped; the same command goes on from here"
    assert "failed" not in out
    mine.wait(lambda: not mine.alive(process))
    assert mine.store.failures() == {}


def assert_resumable(mine: Any) -> None:
    (folder,) = mine.store.folder.glob("work/*")
    files = {file.name for file in folder.iterdir()}
    assert files <= {"checkpoint.pt", "checkpoint.before.pt", "status.json"}  # and no lease
    saved = checkpoint.read(folder / "checkpoint.pt")
    assert (saved["progress"]["epoch"], saved["progress"]["step"]) > (1, 0)


@WORLDS
@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_a_run_that_is_stopped_writes_a_last_checkpoint_and_says_how_to_go_on(
    command: MakeCommand, how: str, world: int
) -> None:
    mine = command(grid_yaml=LONG + f"world: {world}\n")
    process = mine.start("grid.yaml")
    mine.wait(lambda: list(mine.store.folder.glob("work/*/status.json")))  # it trains
    os.killpg(process.pid, signal.SIGINT) if how == "ctrl-c" else process.terminate()
    stopped(mine, process)
    assert_resumable(mine)
    assert "\n  stopped  digits-" in status_text(
        plan(load(str(mine.folder / "grid.yaml")), mine.store), mine.store.folder
    )


def test_ctrl_c_while_workers_still_start_is_answered_just_so(command: MakeCommand) -> None:
    mine = command(grid_yaml=LONG.replace("kd", "ce"))
    process = mine.start("grid.yaml", "--workers", 2)
    mine.wait(lambda: len(mine.alive(process)) > 2)  # the launcher, multiprocessing's own helper, a worker
    os.killpg(process.pid, signal.SIGINT)
    stopped(mine, process)


@WORLDS
def test_workers_do_not_outlive_a_launcher_that_was_killed(command: MakeCommand, world: int) -> None:
    mine = command(grid_yaml=LONG + f"world: {world}\n")
    process = mine.start("grid.yaml")
    mine.wait(lambda: list(mine.store.folder.glob("work/*/status.json")))
    process.kill()
    process.wait()
    mine.wait(lambda: not mine.alive(process))
    assert_resumable(mine)  # as if it had been asked to stop
