"""Grids that run on a real SLURM: in which order, on what, and what becomes of a failure."""

import re

import pytest

from kdbench.benchmark.plans.plan import State
from kdbench.slurm import watch
from kdbench.slurm.submission import submissions
from tests.slurm.bench import SMALL, Bench

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
MANY = """
datasets: digits
pairs: [resnet8 -> resnet8x0.25, resnet14x0.5 -> resnet8x0.25]
methods: [ce, kd, clkd, fitnet]
recipe: {base: quick, epochs: 1}
seeds: 3
"""


def test_teachers_come_first_a_failure_stops_nobody_and_can_be_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPAIRED", str(bench.folder / "repaired"))
    alone = {"sbatch": {"export": "NONE"}, "environment": {"REPAIRED": str(bench.folder / "repaired")}}
    (bench.folder / "mine.py").write_text(MINE)
    bench.write(SMALL.replace("[ce, kd]", "[kd, raises]") + "files: mine.py\n", at_once=4, **alone)
    bench.submit()
    (bench.folder / "mine.py").write_text("the checkout changes while jobs wait")
    bench.empty()
    (bench.folder / "mine.py").write_text(MINE)
    assert bench.counts() == {"finished": 2, "failed": 1}
    (failed,) = bench.plan.those(State.FAILED)
    assert re.fullmatch(r"ValueError: a mistake of the user's \(mine.py, line \d+\)", failed.reason)
    assert "ValueError: a mistake of the user's\n" in watch.tail(failed.cell.id, bench.store)
    places = [re.findall(r"on (n\d): .* GPUs (\S+),", bench.log(entry.cell)) for entry in bench.plan.students]
    assert places[0] != places[1] and {gpu for ((_, gpu),) in places} <= {"0", "1"}  # a GPU each
    assert bench.submit() == "Nothing is left to submit; 1 failed (--retry failed submits them again)."

    (bench.folder / "repaired").touch()
    assert bench.submit(retry="failed").startswith("Submitted 1 cell in 1 job")
    bench.empty()
    assert bench.counts() == {"finished": 3}
    assert not list(bench.store.folder.rglob("*.pkl"))


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
