"""A private SLURM for all tests of a session, empty for each; where it cannot run, tests skip, and fail in CI."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from kdbench.slurm.devcluster.cluster import DevCluster, missing_packages
from kdbench.slurm.devcluster.options import Options, Partition
from tests.benchmark.conftest import make_cell, make_record, recipe  # noqa: F401
from tests.slurm.bench import SLOW, Bench, Eventually

QUICK = Options(partitions=(Partition("low"), Partition("high", tier=10)), max_array_size=11, kill_wait_seconds=1)
T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the tests, one of them has those of the cluster: there is one cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def slurm() -> None:
    """This machine can run a private cluster."""
    lacking = missing_packages(accounting=True)
    reason = f"these Debian packages are not installed: {' '.join(lacking)}" if lacking else ""
    if os.geteuid() != 0:
        reason = "a private SLURM is started by root only"
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"in CI the cluster is tested for real, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a cluster of the test's own: a test's usual one has a name too long for sockets."""
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="session")
def one_for_all(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with DevCluster(tmp_path_factory.mktemp("slurm"), QUICK) as cluster:
        yield cluster


@pytest.fixture
def cluster(one_for_all: DevCluster, eventually: Callable[..., str]) -> Iterator[DevCluster]:
    """Two nodes with two GPUs each; whatever a test leaves in the queue is cancelled after it."""
    yield one_for_all
    one_for_all.ask("scancel", "--user=root")
    eventually(lambda: one_for_all.ask("squeue", "--noheader") == "")


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], T]], T]:
    """What a look at the cluster answers, as soon as that is something."""

    def wait(look: Callable[[], T], seconds: float = 60) -> T:
        deadline = time.monotonic() + seconds
        while not (seen := look()):
            assert time.monotonic() < deadline, "the cluster never came there"
            time.sleep(0.1)
        return seen

    return wait


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[str], list[str]]:
    """The lines that jobs have written so far to a file of the test's folder."""

    def read(name: str) -> list[str]:
        file = tmp_path / name
        return file.read_text().splitlines() if file.exists() else []

    return read


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests: its digest is part of cells' ids."""
    file = tmp_path_factory.mktemp("slow") / "slow.py"
    file.write_text(SLOW)
    return file


@pytest.fixture
def bench(
    cluster: DevCluster, eventually: Eventually, tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return Bench(cluster, eventually, tmp_path, slow)
