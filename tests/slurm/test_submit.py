"""What a real SLURM is given, and what it says of it: nothing twice, nothing that it cannot give."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.plans.plan import State
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.runs.worker import failure
from kdbench.benchmark.training.engine import Engine
from kdbench.refusal import Refusal
from kdbench.slurm import watch
from tests.slurm.bench import HELD, SMALL, Bench


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
    assert watch.cancel(bench.plan, bench.store) == "Cancelled 3 jobs; 'submit' resumes them."
    assert len(watch.sent(bench.plan, bench.store).lost) == 3
    assert not list(bench.store.folder.rglob("*.pkl"))
    assert bench.submit().startswith("Submitted 3 cells in 3 jobs")


def test_jobs_are_cancelled_by_their_cells_whatever_grid_they_were_sent_for(bench: Bench) -> None:
    """As status counts them: a grid may include another, and two files may have one name."""
    bench.write(SMALL, **HELD)
    bench.submit()
    made = bench.plan
    other = tuple(replace(one, cell=msgspec.structs.replace(one.cell, seed=77)) for one in made.students)
    assert watch.cancel(replace(made, teachers=(), students=other), bench.store).startswith("No cell of this grid")
    same = replace(made, grid=replace(made.grid, name="includes it"))
    assert watch.cancel(same, bench.store) == "Cancelled 3 jobs; 'submit' resumes them."


def test_what_cannot_work_is_refused_or_counted(bench: Bench) -> None:
    impossible = "feature_only: {teacher_depths: [3, 2]}"
    bench.write(SMALL.replace("[ce, kd]", f"[ce, {impossible}]"), **HELD)
    assert bench.submit(dry_run=True).endswith("1 cell in 1 job would be submitted; 1 invalid ('plan' shows why).")
    bench.write(SMALL.replace("[ce, kd]", f"[{impossible}]"), **HELD)
    for dry_run in (True, False):
        with pytest.raises(Refusal, match=r"no cell can work: .*: feature_only: teacher_depths must be layers"):
            bench.submit(dry_run=dry_run)


def test_damaged_records_are_told_of(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(SMALL, **HELD)
    bench.store.records_folder.mkdir(parents=True)
    (bench.store.records_folder / f"{bench.plan.students[0].cell.id}.json").write_text("{")
    bench.submit(dry_run=True)
    assert "is set aside" in capsys.readouterr().err


def test_a_teacher_whose_weights_are_damaged_is_submitted_again_before_its_students(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(SMALL.replace("[ce, kd]", "[kd]"), **HELD)
    (teacher,) = bench.plan.grid.teachers.values()
    bench.store.finish(*run(teacher, bench.store, Engine.best(), Path("data"), None))
    weights = bench.store.weights(teacher)
    weights.write_bytes(weights.read_bytes()[:100])
    assert bench.submit(dry_run=True).endswith("1 cell in 1 job would be submitted.") and weights.exists()
    assert bench.submit().startswith("Submitted 2 cells in 2 jobs")
    assert "is set aside as" in capsys.readouterr().err


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
    assert not list(bench.store.folder.rglob("*.pkl")) and not watch.sent(bench.plan, bench.store).lost


def test_without_srun_nothing_is_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(SMALL, **HELD)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "srun" else which(name))
    with pytest.raises(Refusal, match="there is no command 'srun'"):
        bench.submit()
    assert not bench.ask("squeue", "--noheader") and not watch.sent(bench.plan, bench.store).lost


def test_a_retry_that_the_cluster_refuses_forgets_no_failure(bench: Bench) -> None:
    bench.write(SMALL, memory="900G")
    (teacher,) = bench.plan.teachers
    bench.store.fail(failure(teacher.cell, "a mistake", "its traceback", None))
    with pytest.raises(Refusal, match="SLURM refused"):
        bench.submit(retry="failed")
    assert [entry.reason for entry in bench.plan.those(State.FAILED)] == ["a mistake"]


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
