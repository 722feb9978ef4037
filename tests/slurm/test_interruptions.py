"""Cells that are interrupted on a real SLURM, in whatever way, end with the bits of one that was not.

Most take minutes and are run by hand: ``pytest tests/slurm -m slow``.
"""

import shlex
import sys

import msgspec
import psutil
import pytest

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import same_bits
from kdbench.slurm import watch
from kdbench.slurm.submission import submissions
from tests.slurm.bench import LONG, SMALL, Bench

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


@pytest.mark.slow
def test_a_cell_of_two_tasks_that_is_requeued_leaves_the_record_that_a_run_here_leaves(bench: Bench) -> None:
    bench.write(LONG.replace("epochs: 30", "epochs: 20") + "world: 2\n")
    assert bench.submit().startswith("Submitted 1 cell in 1 job")
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
        assert watch.cancel(bench.plan, bench.store).startswith("Cancelled 1 job; ")
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
