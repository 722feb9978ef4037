"""A run that was killed at any moment, and resumed, ends with the same bits as one that was not."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")
EVERY_MOMENT = {
    *("in losses", "after a step", "after the partial step", "between phases", "in evaluation"),
    *("before writing", "while writing", "before the renames", "between the renames", "after the renames"),
    "from outside",
}
STEPS = 4 * (2 + 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker leaves; one does for both precisions, as nothing here takes longer than to import torch."""
    seed = random.SystemRandom().randrange(10**6)
    folder = tmp_path_factory.mktemp(f"seed-{seed}-")
    command = [sys.executable, str(WORKER), str(folder), str(seed)]
    print("repeat with:", *command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_twenty_times_ends_with_the_same_bits_as_one_left_alone(folder: Path, precision: str) -> None:
    folder = folder / precision
    deaths = (folder / "deaths").read_text().splitlines()
    assert len(deaths) >= 20
    assert set(deaths) == EVERY_MOMENT
    # Taken up, and not begun anew: a kill costs one step at most.
    steps = Counter((folder / "steps").read_text().splitlines())
    assert sum(steps.values()) - len(steps) <= len(deaths)

    killed, undisturbed = (torch.load(folder / f"{name}.pt") for name in ("killed", "undisturbed"))
    assert killed["history"] == undisturbed["history"]
    assert [row["epoch"] for row in killed["history"]] == [1, 2, *range(1, 25)]
    for part in ("student", "method"):
        assert killed[part].keys() == undisturbed[part].keys()
        different = [key for key, value in killed[part].items() if not torch.equal(value, undisturbed[part][key])]
        assert different == []
    assert int(killed["method"]["count"]) == STEPS
