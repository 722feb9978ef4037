"""What is read from the scheduler's answers."""

import stat
from pathlib import Path

import pytest

from kdbench.refusal import Refusal
from kdbench.slurm import queue
from kdbench.slurm.queue import Queued


@pytest.mark.parametrize(
    ("resources", "types"),
    [
        ("gpu:v100:2\ngpu:3090:4(S:0-1)\ngpu:2080ti:8,nvme:100\n", {"v100", "3090", "2080ti"}),
        ("gpu:a100_1g.5gb:7(S:0),gpu:nvidia_a100-sxm4:1", {"a100_1g.5gb", "nvidia_a100-sxm4"}),
        ("gpu:4(S:0-1)\ngpu:4,gpu:2\n(null)\n", set()),
    ],
)
def test_types_of_gpu_are_told_from_numbers(monkeypatch: pytest.MonkeyPatch, resources: str, types: set[str]) -> None:
    monkeypatch.setattr(queue, "ask", lambda *_: resources)
    assert queue.gpu_types("gpu") == types


def test_jobs_are_known_by_name_and_place_whatever_their_names_are(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "kdbench-a|7|123_7|RUNNING|None\nmy|own|N/A|124|PENDING|Resources\nkdbench-a|0|123_0|PENDING|Priority\n"
    monkeypatch.setattr(queue, "ask", lambda *_: answer)
    assert queue.queued() == {
        ("kdbench-a", 7): Queued("123_7", "RUNNING", "None"),
        ("kdbench-a", 0): Queued("123_0", "PENDING", "Priority"),
        ("my|own", 0): Queued("124", "PENDING", "Resources"),
    }


@pytest.mark.parametrize(
    ("config", "largest"),
    [("MaxArraySize            = 11\n", 11), ("MaxArraySize = 0\n", 1), ("MaxJobCount = 5\n", queue.USUAL_ARRAY)],
)
def test_an_array_is_as_large_as_the_cluster_says(monkeypatch: pytest.MonkeyPatch, config: str, largest: int) -> None:
    monkeypatch.setattr(queue, "ask", lambda *_: config)
    assert queue.largest_array() == largest


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "squeue"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 'slurm_load: 1' >&2; echo 'Unable to contact' >&2; exit 1", "SLURM refused 'squeue': Unable to contact"),
        ("exit 3", "SLURM refused 'squeue': exit code 3"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_last_line(squeue: Path, script: str, sentence: str) -> None:
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(Refusal) as refusal:
        queue.queued()
    assert str(refusal.value) == sentence


def test_a_scheduler_that_does_not_answer_is_not_waited_for_for_ever(
    squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue.write_text("#!/bin/sh\nexec sleep 60\n")
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    patient = queue.subprocess.run
    monkeypatch.setattr(queue.subprocess, "run", lambda command, **how: patient(command, **how | {"timeout": 0.2}))
    with pytest.raises(Refusal, match=r"^SLURM must answer within a minute, but 'squeue' did not$"):
        queue.queued()
