"""What a worker tells others while a cell runs."""

from pathlib import Path

import pytest

from kdbench.benchmark.experiments import worker
from kdbench.benchmark.experiments.lease import Lease
from kdbench.benchmark.training.loop import Live


def test_the_time_that_is_left_follows_from_the_pace_of_the_phase_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease.take(tmp_path / "cell")
    assert lease
    now = 0.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    pulse = worker.Pulse(lease, tmp_path / "cell", None)

    def left(phase: str, epoch: int, epochs: int) -> float | None:
        pulse.live = Live(phase, epoch, epochs, step=10, steps=10)
        status = pulse.status()
        assert status
        return status.seconds_left

    assert pulse.status() is None
    assert left("adapter", 5, 10) is None  # it was resumed there
    now = 1000.0
    assert left("adapter", 9, 10) == pytest.approx(250)
    assert left("main", 1, 100) is None
    now = 1002.0
    assert left("main", 2, 100) == pytest.approx(2 * 98)
