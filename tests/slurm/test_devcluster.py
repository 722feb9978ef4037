"""The private SLURM: what a job meets there, what disturbances do to it, and that nothing of it stays behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdbench.refusal import Refusal
from kdbench.slurm.devcluster import cluster as rooms
from kdbench.slurm.devcluster.cluster import DevCluster
from kdbench.slurm.devcluster.options import Options, Partition

Eventually, Lines = Callable[..., Any], Callable[[str], list[str]]

SHOW_START = 'echo "$SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}" >> starts; sleep 600'


def submit(cluster: DevCluster, folder: Path, command: str, *options: str) -> str:
    job = cluster.ask("sbatch", "--parsable", "--output=/dev/null", f"--chdir={folder}", *options, f"--wrap={command}")
    assert job.isdigit()
    return job


def state(cluster: DevCluster, job: str) -> str:
    return cluster.ask("squeue", "--noheader", f"--jobs={job}", "--format=%T")


def processes_of(cluster: DevCluster) -> list[psutil.Process]:
    """All that name the cluster's folder in what they are called or told."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.cwd(), process.environ().get("SLURM_CONF", "")]
        except psutil.Error:
            continue
        if any(str(cluster.folder) in word for word in told):
            found.append(process)
    return found


# -- what a job meets --------------------------------------------------------------------------------------------------


def test_two_idle_nodes_with_two_gpus_each(cluster: DevCluster) -> None:
    rows = cluster.ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %T %G").splitlines()
    assert rows == ["n1 idle gpu:2", "n2 idle gpu:2"]


def test_jobs_on_one_node_see_a_gpu_each(
    cluster: DevCluster, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    for _ in range(2):
        command = "srun sh -c 'echo $CUDA_VISIBLE_DEVICES' >> seen; sleep 600"
        submit(cluster, tmp_path, command, "--gpus=1", "--nodelist=n1")
    assert eventually(lambda: len(seen := lines("seen")) == 2 and sorted(seen)) == ["0", "1"]


def test_an_array_larger_than_the_limit_is_refused(cluster: DevCluster, tmp_path: Path) -> None:
    assert "MaxArraySize            = 11\n" in cluster.ask("scontrol", "show", "config")
    with pytest.raises(subprocess.CalledProcessError) as error:
        submit(cluster, tmp_path, "true", "--array=0-11")
    assert "Invalid job array specification" in error.value.stderr
    submit(cluster, tmp_path, "true", "--array=0-10")


def test_without_accounting_there_is_no_sacct(cluster: DevCluster) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        cluster.ask("sacct")
    assert "accounting storage is disabled" in error.value.stderr


def test_a_command_meets_this_cluster_even_inside_another_ones_job(
    cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_CONF": "/nowhere", "SLURM_JOB_ID": "7", "SBATCH_PARTITION": "none"}.items():
        monkeypatch.setenv(name, value)
    assert {name for name in cluster.environment if name.startswith(("SLURM", "SBATCH"))} == {"SLURM_CONF"}
    assert cluster.ask("sinfo")


# -- disturbances ------------------------------------------------------------------------------------------------------


def test_a_preempted_job_is_requeued_and_starts_again(
    cluster: DevCluster, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    low = submit(cluster, tmp_path, SHOW_START, "--partition=low", "--gpus=2", "--nodelist=n1")
    eventually(lambda: lines("starts") == ["n1 0"])
    high = submit(cluster, tmp_path, "sleep 600", "--partition=high", "--gpus=2", "--nodelist=n1")
    eventually(lambda: (state(cluster, high), state(cluster, low)) == ("RUNNING", "PENDING"))
    cluster.ask("scancel", high)
    eventually(lambda: lines("starts") == ["n1 0", "n1 1"])


def test_a_job_whose_node_is_killed_is_requeued_and_nothing_of_it_goes_on(
    cluster: DevCluster, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    # The second process leaves its parents, as a daemon would.
    command = f"setsid --fork sleep 600; {SHOW_START}"
    submit(cluster, tmp_path, command, "--nodelist=n1")
    other = submit(cluster, tmp_path, "sleep 600", "--nodelist=n2")
    eventually(lambda: lines("starts") == ["n1 0"] and state(cluster, other) == "RUNNING")
    eventually(lambda: sleeping(tmp_path) == 3)
    cluster.kill_node("n1", reported=True)
    assert sleeping(tmp_path) == 1
    cluster.start_node("n1")
    eventually(lambda: lines("starts") == ["n1 0", "n1 1"])
    assert state(cluster, other) == "RUNNING"


def sleeping(folder: Path) -> int:
    found = 0
    for process in psutil.process_iter(["name", "cwd", "status"]):
        found += process.info["name"] == "sleep" and process.info["cwd"] == str(folder)
    return found


def test_a_node_that_stays_dead_gives_its_jobs_to_another(
    cluster: DevCluster, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    submit(cluster, tmp_path, SHOW_START, "--nodes=1")
    first = eventually(lambda: lines("starts"))[0].split()[0]
    cluster.kill_node(first)
    try:
        other = {"n1": "n2", "n2": "n1"}[first]
        eventually(lambda: lines("starts") == [f"{first} 0", f"{other} 1"], seconds=120)
    finally:
        cluster.start_node(first)


def test_jobs_outlive_a_restart_of_the_controller(
    cluster: DevCluster, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    running = submit(cluster, tmp_path, SHOW_START)
    held = submit(cluster, tmp_path, "true", "--hold")
    eventually(lambda: lines("starts"))
    cluster.restart_controller()
    assert (state(cluster, running), state(cluster, held)) == ("RUNNING", "PENDING")
    assert lines("starts")[0].endswith(" 0") and len(lines("starts")) == 1


# -- a second one beside it, with accounting, and its end --------------------------------------------------------------


def test_one_with_accounting_runs_beside_it_and_leaves_nothing_but_logs(
    cluster: DevCluster, home: Path, tmp_path: Path, eventually: Eventually, lines: Lines
) -> None:
    with DevCluster(home, Options(nodes=1, accounting=True, kill_wait_seconds=1)) as second:
        job = submit(second, tmp_path, "exit 3")
        sacct = ("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode")
        eventually(lambda: second.ask(*sacct) == f"{job}|FAILED|3:0")
        submit(second, tmp_path, f"setsid --fork sleep 600; {SHOW_START}")
        eventually(lambda: lines("starts"))
        daemons = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"}
        assert daemons <= {process.name() for process in processes_of(second)}
        assert cluster.ask("squeue", "--noheader") == ""
    assert not processes_of(second)
    assert not sleeping(tmp_path)
    assert [file.name for file in second.folder.iterdir()] == ["log"]
    assert cluster.ask("sinfo")


def test_a_start_that_fails_quotes_the_log_and_leaves_nothing(slurm: None, home: Path) -> None:
    failing = DevCluster(home, Options(partitions=(Partition("low", tier=-1),)))
    with pytest.raises(Refusal, match=r"slurmctld must run, but its log .*/slurmctld\.log says: .*PriorityTier"):
        failing.start()
    assert not processes_of(failing)
    assert not failing.home.exists()


# -- the verbs ---------------------------------------------------------------------------------------------------------


def kdbench(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "kdbench.benchmark.cli", "devcluster", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refusal(*words: str | Path) -> str:
    done = kdbench(*words)
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


def test_a_shell_starts_one_uses_it_and_stops_it(slurm: None, home: Path) -> None:
    try:
        assert "n[1-2]" in kdbench("start", "--folder", home).stdout
        assert "runs in" in refusal("start", "--folder", home)
        said = kdbench("env", "--folder", home).stdout
        shell = subprocess.run(["sh", "-c", f"{said}\nsinfo -h -o %P"], capture_output=True, text=True, check=True)
        assert shell.stdout.split() == ["low*", "high"]
    finally:
        stopped = kdbench("stop", "--folder", home)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert "must run in" in refusal("env", "--folder", home)
    assert "must have been started in" in refusal("stop", "--folder", home)
    assert not processes_of(DevCluster(home))


# -- what is refused, with or without SLURM on the machine -------------------------------------------------------------


def test_a_machine_without_slurm_is_told_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SYSTEM", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    for accounting, packages in {False: "slurm-wlm munge", True: "slurm-wlm munge slurmdbd mariadb-server"}.items():
        with pytest.raises(Refusal, match=f"apt-get install {packages}$"):
            DevCluster(tmp_path / "none", Options(accounting=accounting)).start()
    assert not (tmp_path / "none").exists()


@pytest.fixture
def as_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool, path: f"/usr/bin/{tool}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("as_if_installed")
def test_who_is_not_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refusal, match="must be started by root"):
        DevCluster(tmp_path / "mine").start()


@pytest.mark.usefixtures("as_if_installed")
@pytest.mark.parametrize("name", ["a b", "a#b", "a" * 80])
def test_a_folder_that_slurm_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal, match="the folder must have at most 70"):
        DevCluster(tmp_path / name).start()


@pytest.mark.usefixtures("as_if_installed")
def test_somebody_elses_folder_is_neither_used_nor_emptied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rooms, "LONGEST_FOLDER", 1000)
    (tmp_path / "cluster").mkdir()
    with pytest.raises(Refusal, match="must be new, empty or an earlier cluster's, got cluster in it"):
        DevCluster(tmp_path).start()
    DevCluster(tmp_path).stop()
    assert (tmp_path / "cluster").is_dir()


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus": -1}, {"memory_mb": 0}, {"partitions": ()}], ids=str)
def test_a_cluster_that_nobody_can_build_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=f"devcluster: {next(iter(wrong))} must "):
        Options(**wrong)
