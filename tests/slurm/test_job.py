"""What a job carries from the submission to the node."""

import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import kdbench
from kdbench.benchmark import extensions
from kdbench.benchmark.cli import app
from kdbench.benchmark.records.environment import commit
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.portable import TOLD
from kdbench.slurm import job, snapshot, submit
from kdbench.slurm.job import Job
from kdbench.slurm.site import Site


@pytest.mark.parametrize("live", [False, True])
def test_a_job_asks_teachers_in_the_manner_of_its_submission(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []

    def worker(store: Any, engine: Any, data: Any) -> Any:
        engines.append(engine)
        raise StopIteration  # there is nothing to be done

    monkeypatch.setattr(job, "Worker", worker)
    monkeypatch.setattr(extensions, "files", list)  # other tests may have loaded some
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(torch.get_num_threads()))
    sent: Job = pickle.loads(pickle.dumps(Job([], tmp_path, tmp_path, teachers=False, live_teacher=live)))
    with pytest.raises(StopIteration):
        sent()
    assert [engine.live_teacher for engine in engines] == [live]


def test_where_the_node_has_no_such_folder_data_are_read_from_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODES_OWN", raising=False)
    asked = Job([], tmp_path, tmp_path / "data", "$NODES_OWN", teachers=False)
    assert asked._data_of(make_cell()) == tmp_path / "data"
    assert not list(tmp_path.iterdir())


def test_each_task_of_a_job_takes_a_gpu_of_its_own_and_counts_again_where_it_sees_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: Any
) -> None:
    """On some clusters a task sees all GPUs of its job, on others its own alone."""
    monkeypatch.setattr(Engine, "best", lambda **_: Engine(torch.device("cuda")))
    monkeypatch.setattr(Ranks, "join", lambda rank, world, folder, device: (rank, world, str(device)))
    monkeypatch.setenv("KDBENCH_CODE", str(tmp_path))
    pair = Job([make_cell(world=2)], tmp_path, tmp_path, teachers=False)
    places = []
    for rank, seen in ((0, 2), (1, 2), (1, 1)):
        monkeypatch.setattr(job.submitit, "JobEnvironment", lambda rank=rank: SimpleNamespace(global_rank=rank))
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        engine, ranks = pair._ranks()
        places.append((str(engine.device), ranks))
    assert places == [
        ("cuda:0", (0, 2, "cuda:0")),
        ("cuda:1", (1, 2, "cuda:1")),
        ("cuda:0", (1, 2, "cuda:0")),
    ]
    assert Job([make_cell()], tmp_path, tmp_path, teachers=False)._ranks()[1] is ALONE


@pytest.mark.parametrize("lacks", ["record", "weights"])
def test_a_student_whose_teacher_failed_is_blocked_and_has_no_failure(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: Any
) -> None:
    store, cell = Store(tmp_path), make_cell("kd", teacher="resnet14x0.5")
    if lacks == "weights":
        monkeypatch.setattr(Store, "record", lambda self, cell_id: "the teacher's")
    outcomes = Job([cell], tmp_path, tmp_path, teachers=False)()
    assert outcomes == {cell.id: "blocked"}
    assert not store.failures() and not store.records()


def test_a_cell_that_another_job_has_is_asked_for_again_however_long_the_others_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_cell: Any
) -> None:
    """It may be this job's own, from before it was put back into the queue."""
    now, asked = 0.0, []

    def work(self: Any, worker: Any, store: Any, cell: Any) -> str:
        nonlocal now
        asked.append(cell.seed)
        now += 10_000 if cell.seed == 1 else 1
        return "elsewhere" if asked == [0] else "finished"

    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(job, "ASK_AGAIN", 0)
    monkeypatch.setattr(job, "Bell", lambda worker: None)
    monkeypatch.setattr(Job, "_work", work)
    cells = [make_cell(seed=seed) for seed in range(2)]
    outcomes = Job(cells, tmp_path, tmp_path, teachers=False)()
    assert asked == [0, 1, 0]
    assert set(outcomes.values()) == {"finished"}


def test_code_that_is_older_than_zip_archives_is_frozen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "__init__.py"
    file.touch()
    os.utime(file, (1, 1))
    monkeypatch.setattr(kdbench, "__file__", str(file))
    (tmp_path / "jobs").mkdir()
    snapshot.freeze(tmp_path / "jobs" / "code.zip")
    assert "kdbench/__init__.py" in zipfile.ZipFile(tmp_path / "jobs" / "code.zip").namelist()


def test_a_job_knows_the_commit_of_its_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "commit", lambda: "c0ffee+changed")
    snapshot.freeze(tmp_path / "code.zip")
    zipfile.ZipFile(tmp_path / "code.zip").extractall(tmp_path / "node")
    monkeypatch.setattr(kdbench, "__file__", str(tmp_path / "node" / "kdbench" / "__init__.py"))
    assert commit.__wrapped__() == "c0ffee+changed"


def test_code_is_unpacked_where_the_login_nodes_folder_for_temporary_files_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with zipfile.ZipFile("code.zip", "w") as archive:
        archive.writestr("kdbench/__init__.py", "")
    script = "\n".join([*submit.setup(Site(), tmp_path / "code.zip"), f'ls "${job.CODE}"; echo "${job.CODE}"'])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "kdbench"
    assert not Path(done.stdout.splitlines()[1]).exists()  # nor does it stay there
    assert [file.name for file in tmp_path.iterdir()] == ["code.zip"]


def test_a_job_whose_code_cannot_be_unpacked_ends_and_runs_no_other_code(tmp_path: Path) -> None:
    (tmp_path / "code.zip").write_bytes(b"half of it")
    script = "\n".join([*submit.setup(Site(), tmp_path / "code.zip"), "echo other code"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode and not done.stdout
    assert "BadZipFile" in done.stderr


def test_the_flag_reaches_the_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    manners = []
    monkeypatch.setattr(submit, "submit", lambda *_, **how: manners.append(how["live_teacher"]))
    for flag in ([], ["--live-teacher"]):
        assert CliRunner().invoke(app, ["submit", "quickstart", "--site", "any", *flag]).exit_code == 0
    assert manners == [False, True]


def test_a_portable_job_takes_one_thread_whatever_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(store: Any, engine: Engine, data: Any) -> Any:
        told.append(engine.arithmetic("fp32"))
        raise StopIteration

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(job, "Worker", worker)
    monkeypatch.setattr(extensions, "files", list)
    for name, value in (TOLD | {"SLURM_CPUS_PER_TASK": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StopIteration):
        Job([], tmp_path, tmp_path, teachers=False)()
    assert (told[0]["portable"], told[0]["threads"]) == (True, 1)
