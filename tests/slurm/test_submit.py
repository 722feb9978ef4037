"""Grids on a real SLURM: what is submitted, what runs, and that disturbances change no bit.

Some take minutes and are run by hand: ``pytest tests/slurm/test_submit.py -m slow``.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.grid import load
from kdbench.benchmark.experiments.plan import State, plan
from kdbench.benchmark.experiments.record import Result
from kdbench.benchmark.experiments.run import run, same_bits
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import live
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.methods.refusal import Refusal
from kdbench.slurm import queue, watch
from kdbench.slurm.devcluster.cluster import DevCluster
from kdbench.slurm.submission import logs, submissions, waiting
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
SITE: dict[str, Any] = {"partition": "low", "gpus": 1, "cpus": 1, "memory": "900M", "minutes": 30, "at_once": 2}
UNDISTURBED: dict[str, Result] = {}
HELD = {"sbatch": {"hold": True}}

MINE = """
import os
from kdbench.methods.method import METHODS, Method

@METHODS.register("raises")
class Raises(Method):
    source = "logits"
    def losses(self, student, teacher, batch):
        if not os.path.exists(os.environ["REPAIRED"]):
            raise ValueError("a mistake of the user's")
        return {"none": 0.0 * student.logits.sum()}
"""


class Bench:
    """A grid, a site and a results folder of a test's own; its jobs run on the cluster."""

    def __init__(self, cluster: DevCluster, eventually: Eventually, folder: Path, slow: Path) -> None:
        self.cluster, self.eventually, self.folder, self.slow = cluster, eventually, folder, slow
        self.results = folder / 'it\'s "the" results'
        self.store = Store(self.results)

    def write(self, grid: str, **site: Any) -> None:
        (self.folder / "grid.yaml").write_text(grid.replace("SLOW", str(self.slow)))
        (self.folder / "site.yaml").write_bytes(msgspec.yaml.encode(SITE | site))

    def submit(self, retry_failed: bool = False, dry_run: bool = False) -> str:
        return submit(
            load("grid.yaml"), "site.yaml", self.results, Path("data"), dry_run=dry_run, retry_failed=retry_failed
        )

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


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests: what it registers is registered once."""
    file = tmp_path_factory.mktemp("slow") / "slow.py"
    file.write_text(SLOW)
    return file


@pytest.fixture
def bench(
    cluster: DevCluster, eventually: Eventually, tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return Bench(cluster, eventually, tmp_path, slow)


# -- in the queue ------------------------------------------------------------------------------------------------------


def test_forty_cells_where_an_array_has_eleven_share_what_may_run_at_once(bench: Bench) -> None:
    bench.write(SMALL.replace("[ce, kd]", "[ce]") + "seeds: 40\n", **HELD)
    assert bench.submit().startswith("Submitted 40 cells in 40 jobs")
    tasks = bench.ask("squeue", "--noheader", "--format=%F %K")
    assert [row.split()[1] for row in tasks] == ["0-6%1", "0-10%1", "0-10%1", "0-10%1"]


def test_what_is_in_the_queue_is_not_submitted_again_until_it_is_cancelled(bench: Bench) -> None:
    bench.write(SMALL, **HELD)
    assert bench.submit().startswith("Submitted 3 cells in 3 jobs")
    assert bench.submit() == "Nothing is left to submit; 3 in the queue already."
    sent = watch.sent(bench.plan, bench.store)
    assert [why.split(" ", 2)[2] for why in sent.pending.values()] == ["pending: JobHeldUser"] * 3
    assert watch.cancel(bench.plan, bench.store) == "Cancelled 3 jobs; 'submit' goes on where they were."
    assert len(watch.sent(bench.plan, bench.store).lost) == 3
    assert not list(bench.store.folder.rglob("*.pkl"))
    assert bench.submit().startswith("Submitted 3 cells in 3 jobs")


def test_a_dry_run_says_what_sbatch_would_be_told_and_sends_nothing(bench: Bench) -> None:
    bench.write(SMALL, gpus="h200:2", sbatch={"nice": 5, "mem": None})
    said = bench.submit(dry_run=True)
    assert "#SBATCH --gpus-per-node=h200:2\n" in said and "#SBATCH --nice=5\n" in said and "--mem" not in said
    assert "#SBATCH --dependency='afterany:<array 0>'\n" in said
    assert said.endswith("3 cells in 3 jobs would be submitted.")
    assert not bench.results.exists() and not bench.ask("squeue", "--noheader")


WRONG = {
    "partition": (
        {"partition": "gpu"},
        "the site's partition must be one of the cluster's, got 'gpu'; known: high, low",
    ),
    "memory": ({"memory": "900G"}, "SLURM refused the jobs: .*Requested node configuration is not available"),
    "option": ({"sbatch": {"qos": "none", "account": "none", "nodelist": "n7"}}, "SLURM refused the jobs: .*node"),
}


@pytest.mark.parametrize("site, sentence", WRONG.values(), ids=WRONG)
def test_what_the_cluster_cannot_give_is_said_at_submission(bench: Bench, site: dict[str, Any], sentence: str) -> None:
    bench.write(SMALL, **site)
    with pytest.raises(Refusal, match=sentence):
        bench.submit()
    assert not bench.ask("squeue", "--noheader")
    assert not list(bench.store.folder.rglob("*.pkl"))


# -- jobs that run -----------------------------------------------------------------------------------------------------


def test_teachers_come_first_a_failure_stops_nobody_and_can_be_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPAIRED", str(bench.folder / "repaired"))
    (bench.folder / "mine.py").write_text(MINE)
    bench.write(SMALL.replace("[ce, kd]", "[kd, raises]") + "files: mine.py\n", at_once=4)
    bench.submit()
    (bench.folder / "mine.py").write_text("the checkout changes while jobs wait")
    bench.empty()
    (bench.folder / "mine.py").write_text(MINE)
    assert bench.counts() == {"finished": 2, "failed": 1}
    (failed,) = bench.plan.those(State.FAILED)
    assert failed.reason == "ValueError: a mistake of the user's"
    assert "ValueError: a mistake of the user's\n" in watch.tail(failed.cell.id, bench.store)
    places = [re.findall(r"on (n\d): .* GPUs (\S+),", bench.log(entry.cell)) for entry in bench.plan.students]
    assert places[0] != places[1] and {gpu for ((_, gpu),) in places} <= {"0", "1"}  # a GPU each
    assert bench.submit() == "Nothing is left to submit; 1 failed (--retry failed submits them again)."

    (bench.folder / "repaired").touch()
    assert bench.submit(retry_failed=True).startswith("Submitted 1 cells in 1 jobs")
    bench.empty()
    assert bench.counts() == {"finished": 3}
    assert not list(bench.store.folder.rglob("*.pkl"))


def test_a_cell_that_is_preempted_and_then_out_of_time_ends_with_the_same_bits(bench: Bench) -> None:
    bench.write(LONG)
    bench.submit()
    (entry,) = bench.plan.entries
    bench.began(entry.cell)
    assert bench.submit() == "Nothing is left to submit; 1 in the queue already."
    high = bench.ask("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 600")
    bench.eventually(lambda: bench.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i") == high)
    assert (bench.store.work(entry.cell.id) / "checkpoint.pt").exists()
    bench.ask("scancel", *high)
    bench.began(entry.cell)
    job = bench.job_of(entry.cell)
    assert job is not None
    bench.ask("scancel", "--signal=USR2", job.job)  # as 90 seconds before the end
    bench.empty()
    assert bench.log(entry.cell).count("on n") == 3
    assert same_bits(bench.result(entry.cell), bench.undisturbed(entry.cell))


# -- by hand: pytest tests/slurm/test_submit.py -m slow ----------------------------------------------------------------

MANY = """
datasets: digits
pairs: [resnet8 -> resnet8x0.25, resnet14x0.5 -> resnet8x0.25]
methods: [ce, kd, clkd, fitnet]
recipe: {base: quick, epochs: 1}
seeds: 3
"""


@pytest.mark.slow
def test_two_dozen_cells_submitted_by_two_at_once_run_on_four_gpus_while_the_controller_restarts(bench: Bench) -> None:
    bench.write(MANY, at_once=3)
    two = [bench.command("submit", "grid.yaml", "--site", "site.yaml") for _ in range(2)]
    said = sorted(one.communicate()[0] or "" for one in two)
    print(said, [one.returncode for one in two])
    assert sum("Submitted" in words for words in said) == 1
    assert bench.submit().startswith("Nothing is left to submit; ")
    sent = [cell for s in submissions(bench.store) for array in s.arrays for job in array for cell in job]
    assert len(sent) == len(set(sent)) == len(bench.plan.entries) == 23
    most, restarted = 0, False

    def over() -> bool:
        nonlocal most, restarted
        most = max(most, len(bench.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i")))
        if len(bench.store.records()) > 5 and not restarted:
            restarted = True
            bench.cluster.restart_controller()
        return not bench.ask("squeue", "--noheader")

    bench.eventually(over, 500)
    assert most == 3 and restarted
    assert bench.counts() == {"finished": 23}
    places = {place for e in bench.plan.entries for place in re.findall(r"on (n\d): .* GPUs (\S+),", bench.log(e.cell))}
    assert {gpu for _, gpu in places} == {"0", "1"}
    ended = {e.cell.id: bench.store.records()[e.cell.id].environment.finished for e in bench.plan.entries}
    assert max(ended[e.cell.id] for e in bench.plan.teachers) < min(ended[e.cell.id] for e in bench.plan.students)


@pytest.mark.slow
def test_a_cell_of_two_tasks_that_is_requeued_leaves_the_record_that_a_run_here_leaves(bench: Bench) -> None:
    bench.write(LONG.replace("epochs: 30", "epochs: 20") + "world: 2\n")
    assert bench.submit().startswith("Submitted 1 cells in 1 jobs")
    (entry,) = bench.plan.entries
    bench.began(entry.cell)
    job = bench.job_of(entry.cell)
    assert job is not None
    bench.ask("scancel", "--signal=USR2", job.job)
    bench.empty()
    assert bench.log(entry.cell).count("on n") == 2 and "GPUs 0,1" in bench.log(entry.cell)
    assert bench.counts() == {"finished": 1} and not list(bench.store.folder.rglob("*.pkl"))
    again = bench.command("run", "--cell", bench.store.records_folder / f"{entry.cell.id}.json", "--with", bench.slow)
    assert "The same bits as the record." in again.communicate()[0]


@pytest.fixture
def running(bench: Bench) -> Cell:
    """A cell that has just begun to train."""
    bench.write(LONG)
    bench.submit()
    cell: Cell = bench.plan.entries[0].cell
    bench.began(cell)
    return cell


@pytest.mark.slow
def test_a_cell_whose_node_is_killed_goes_on_elsewhere(bench: Bench, running: Cell) -> None:
    job = bench.job_of(running)
    assert job is not None
    (node,) = bench.ask("squeue", "--noheader", f"--jobs={job.job}", "--format=%N")
    bench.cluster.kill_node(node)
    try:
        bench.empty(240)
    finally:
        bench.cluster.start_node(node)
    assert bench.log(running).count("on n") == 2
    assert same_bits(bench.result(running), bench.undisturbed(running))


@pytest.mark.slow
def test_a_cell_at_its_time_limit_queues_itself_again(bench: Bench) -> None:
    bench.write(LONG.replace("epochs: 30", "epochs: 300"), sbatch={"time": 3})
    bench.submit()
    (entry,) = bench.plan.entries
    bench.empty(500)
    print(bench.log(entry.cell))
    assert bench.log(entry.cell).count("on n") >= 2
    assert same_bits(bench.result(entry.cell), bench.undisturbed(entry.cell))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "cancelled", "cancelled and submitted by a job"])
def test_a_cell_that_is_lost_goes_on_with_the_next_submit(bench: Bench, running: Cell, how: str) -> None:
    if how == "killed":  # as the kernel does where memory is short
        for file in bench.store.work(running.id).glob("lease.*"):
            psutil.Process(msgspec.json.decode(file.read_bytes())["pid"]).kill()
        bench.empty()
    else:
        assert watch.cancel(bench.plan, bench.store).startswith("Cancelled 1 jobs; ")
        assert (bench.store.work(running.id) / "checkpoint.pt").exists()
    assert list(watch.sent(bench.plan, bench.store).lost) == [running.id]
    if how == "cancelled and submitted by a job":
        words = [sys.executable, "-m", "kdbench.benchmark.cli", "submit", "grid.yaml", "--site", "site.yaml"]
        line = shlex.join([*words, "--results", str(bench.results)])
        bench.ask("sbatch", "--partition=high", "--cpus-per-task=2", "--mem=3G", "--output=inside", f"--wrap={line}")
        bench.eventually(lambda: len(submissions(bench.store)) == 2, 120)
    else:
        bench.submit()
    bench.empty()
    assert same_bits(bench.result(running), bench.undisturbed(running))


GREEDY = """
import torch
from kdbench.methods.method import METHODS, Method

@METHODS.register("greedy")
class Greedy(Method):
    source = "logits"
    def losses(self, student, teacher, batch):
        self.kept = getattr(self, "kept", []) + [torch.ones(2**26)]
        return {"none": 0.0 * student.logits.sum()}
"""


@pytest.mark.slow
def test_a_cell_that_takes_more_memory_than_its_job_has_is_lost(bench: Bench) -> None:
    (bench.folder / "mine.py").write_text(GREEDY)
    bench.write(SMALL.replace("[ce, kd]", "[greedy]") + "files: mine.py\n")
    bench.submit()
    bench.empty()
    (entry,) = bench.plan.students
    print(bench.log(entry.cell))
    assert bench.counts() == {"finished": 1, "missing": 1}
    assert list(watch.sent(bench.plan, bench.store).lost) == [entry.cell.id]


@pytest.mark.slow
def test_two_thousand_cells(bench: Bench) -> None:
    """What the tool's own work comes to, in figures; and that it does it."""
    answers: dict[str, Any] = {}
    bench.write(SMALL.replace("[ce, kd]", "[ce]") + "seeds: 2000\n", **HELD)
    for name, look in {
        "plan": lambda: bench.plan,
        "dry run": lambda: bench.submit(dry_run=True),
        "submit": bench.submit,
        "status": lambda: watch.sent(bench.plan, bench.store),
        "again": bench.submit,
        "cancel": lambda: watch.cancel(bench.plan, bench.store),
    }.items():
        began = time.perf_counter()
        answers[name] = look()
        files = [file for file in bench.results.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        print(f"{name}: {time.perf_counter() - began:.1f} s, {len(files)} files, {size / 2**20:.1f} MB")
    assert answers["dry run"].endswith("2000 cells in 2000 jobs would be submitted.")
    assert len(answers["status"].pending) == 2000 and not answers["status"].lost
    assert answers["again"] == "Nothing is left to submit; 2000 in the queue already."
    assert bench.ask("squeue", "--noheader") == [] and not list(bench.results.rglob("*.pkl"))
