"""What a cluster is like, and what sbatch is told of it."""

from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from kdbench.methods.refusal import Refusal
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
    ],
)
def test_a_job_of_four_tasks_asks_for_four_times_as_much_on_one_node(tmp_path: Path, text: str, gpus: str) -> None:
    options = told(written(tmp_path, f"{text}\ncpus: 8\nmemory: 32G"), world=4)
    assert {gpus, "--nodes=1", "--ntasks-per-node=4", "--cpus-per-task=8", "--mem=128G"} <= set(options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu", "mine.yaml:1: partitoin: unknown key 'partitoin'; did you mean 'partition'"),
        ("about: a\ngpus: two", "mine.yaml:2: gpus: must be a number or TYPE:NUMBER, got 'two'"),
        ("minutes: soon", "mine.yaml:1: minutes: must be a number or a time such as 1:30:00, got 'soon'"),
        ("cpus: 0", "mine.yaml:1: cpus: "),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        load(written(tmp_path, text))


def test_an_unknown_site_is_answered_with_the_nearest() -> None:
    with pytest.raises(Refusal, match="unknown site 'pixis'; did you mean 'pyxis'"):
        load("pixis")
