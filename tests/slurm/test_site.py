"""What a cluster is like, and what sbatch is told of it."""

from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from kdbench.refusal import Refusal
from kdbench.slurm.site import load, minutes, shipped


def written(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def told(site: str, world: int = 1) -> list[str]:
    """The options that sbatch is given."""
    text = _make_sbatch_string("run", "logs", **load(site).parameters("name", 30, world))
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize("name", shipped())
def test_every_site_that_ships_can_be_read_and_says_what_it_is_for(name: str) -> None:
    assert load(name).about
    assert {"--time=30", "--requeue"} <= set(told(name))


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1:30", 2), ("1:30:00", 90), ("1-12:00:00", 36 * 60), ("2-0", 48 * 60)]
)
def test_minutes_are_written_as_slurm_writes_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_what_a_site_adds_is_passed_on_and_null_takes_away(tmp_path: Path) -> None:
    more = "{gpus-per-node: null, requeue: null, gres: 'gpu:1', reservation: night}"
    options = told(written(tmp_path, f"gpus: 1\nsbatch: {more}"))
    assert "--gres=gpu:1" in options and "--reservation=night" in options
    assert not [option for option in options if option.startswith(("--gpus-per-node", "--wckey", "--requeue"))]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpus: 1", "--gpus-per-node=4"),
        ("gpus: 'h200:1'", "--gpus-per-node=h200:4"),
        ("sbatch: {gpus-per-node: null, gres: 'gpu:a100:1'}", "--gres=gpu:a100:4"),
        ("sbatch: {gpus-per-node: null, gres: gpu}", "--gres=gpu:4"),
        ("sbatch: {gpus-per-node: null, gres: 'gpu:a100:1,nvme:100'}", "--gres=gpu:a100:4,nvme:100"),
        ("sbatch: {gpus-per-node: 2}", "--gpus-per-node=8"),
    ],
)
def test_a_job_of_four_tasks_asks_for_four_times_as_much_on_one_node(tmp_path: Path, text: str, gpus: str) -> None:
    options = told(written(tmp_path, f"{text}\ncpus: 8\nmemory: 32G"), world=4)
    assert {gpus, "--nodes=1", "--ntasks-per-node=4", "--cpus-per-task=8", "--mem=128G"} <= set(options)


@pytest.mark.parametrize(("memory", "asked"), [("32g", "64g"), ("500Mb", "1000Mb"), ("16000", "32000")])
def test_memory_is_written_as_slurm_reads_it(tmp_path: Path, memory: str, asked: str) -> None:
    assert f"--mem={asked}" in told(written(tmp_path, f"memory: '{memory}'"), world=2)
    assert f"--mem={asked}" in told(written(tmp_path, f"sbatch: {{mem: '{memory}'}}"), world=2)


@pytest.mark.parametrize(
    ("more", "cores"),
    [("{}", ["--cpus-per-task=8"]), ("{cpus-per-task: 3}", ["--cpus-per-task=3"]), ("{cpus-per-task: null}", [])],
)
def test_a_step_asks_for_the_cores_that_its_job_has(tmp_path: Path, more: str, cores: list[str]) -> None:
    """SLURM refuses it more than that, and does not give it them by itself."""
    site = load(written(tmp_path, f"srun: [--mpi=none]\nsbatch: {more}"))
    assert site.parameters("name", 30)["srun_args"] == [*cores, "--mpi=none"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpus: 1", False),
        ("gpus: 'a100:1'", True),
        ("constraint: big", True),
        ("sbatch: {gpus-per-node: null, gres: 'gpu:v100:1'}", True),
        ("sbatch: {gpus-per-node: null, gres: 'gpu:1'}", False),
        ("sbatch: {constraint: a100}", True),
        ("sbatch: {nodelist: n7}", True),
        ("sbatch: {gpus-per-node: null}", True),
    ],
)
def test_a_site_names_a_kind_of_gpu_in_any_of_sbatch_s_ways(tmp_path: Path, text: str, named: bool) -> None:
    assert load(written(tmp_path, text)).names_a_kind({"a100", "v100"}) == named


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu", "mine.yaml:1: partitoin: unknown key 'partitoin'; did you mean 'partition'"),
        ("about: a\ngpus: two", "mine.yaml:2: gpus: must be a number or TYPE:NUMBER, got 'two'"),
        ("minutes: soon", "mine.yaml:1: minutes: must be a number or a time such as 1:30:00, got 'soon'"),
        ("cpus: 0", "mine.yaml:1: cpus: "),
        ("sbatch: {job-name: mine}", "sbatch: must not set 'job-name': it is set by kdbench and cannot be changed"),
        ("sbatch: {--dependency: singleton}", "sbatch: must not set '--dependency': it is set by kdbench"),
        ("sbatch: {requeue: false}", "sbatch: must have text, a number, true or null for 'requeue', got false"),
        ("sbatch: {mail-type: [FAIL]}", "sbatch: must have text, a number, true or null for 'mail-type', got "),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        load(written(tmp_path, text))


def test_an_unknown_site_is_answered_with_the_nearest() -> None:
    with pytest.raises(Refusal, match="unknown site 'pixis'; did you mean 'pyxis'"):
        load("pixis")
