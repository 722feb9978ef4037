"""What a worker tells others while a cell runs, and what comes of it where the disk is full."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from kdbench.benchmark.experiments import store as store_module
from kdbench.benchmark.experiments import worker
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.lease import Lease
from kdbench.benchmark.experiments.store import Store, write
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.loop import Live
from tests.conftest import CPU

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_the_time_that_is_left_follows_from_the_pace_of_the_phase_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    news = worker.News(tmp_path / "cell", None)

    def left(phase: str, epoch: int, epochs: int) -> float | None:
        news.live = Live(phase, epoch, epochs, step=10, steps=10)
        status = news.status()
        assert status
        return status.seconds_left

    assert news.status() is None
    assert left("adapter", 5, 10) is None  # it was resumed there
    now = 1000.0
    assert left("adapter", 9, 10) == pytest.approx(250)
    assert left("main", 1, 100) is None
    now = 1002.0
    assert left("main", 2, 100) == pytest.approx(2 * 98)


def test_a_teacher_whose_weights_do_not_fit_has_failed_and_goes_on_from_its_checkpoint(
    make_cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell = Store(tmp_path), make_cell()
    begun: list[bool] = []

    def small(file: Path, content: bytes) -> None:
        if file.suffix == ".safetensors":
            raise FULL
        write(file, content)

    def watched(self: Checkpoints) -> object:
        begun.append(not self.last.exists())
        return load(self)

    load = Checkpoints.load
    monkeypatch.setattr(Checkpoints, "load", watched)
    monkeypatch.setattr(Checkpoints, "due", lambda self: not self.last.exists())
    at_work = worker.Worker(store, CPU, Path())
    with monkeypatch.context() as disk:
        disk.setattr(store_module, "write", small)
        assert at_work.work(cell, needs_weights=True) == "failed"
    assert store.failures()[cell.id].error == "OSError: [Errno 28] No space left on device"
    store.tidy()
    store.forgive(cell.id)
    assert at_work.work(cell, needs_weights=True) == "finished"
    assert begun == [True, False]
    assert store.weights(cell).exists()


def test_a_cell_that_has_no_room_for_its_lease_has_failed(
    make_cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> NoReturn:
        raise FULL

    monkeypatch.setattr(Lease, "take", full)
    store, cell = Store(tmp_path), make_cell()
    assert worker.Worker(store, CPU, Path()).work(cell) == "failed"
    assert store.failures()[cell.id].error == "OSError: [Errno 28] No space left on device"
