"""The commands that the README prints for a cluster run there, in their order."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kdbench.benchmark.cli import app
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.plan import State, plan
from kdbench.benchmark.records.store import Store
from kdbench.slurm.devcluster.cluster import DevCluster
from tests.pages import PAGES, ROOT, commands, named, needs_a_cluster, small

SITE = "{partition: low, gpus: 1, cpus: 1, memory: 2G, minutes: 30}"


def test_what_the_pages_print_runs(cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    Path("my_grid.yaml").write_text(small(named(ROOT / "README.md", "my_grid.yaml")))
    Path("my_cluster.yaml").write_text(SITE)
    cell = load("my_grid.yaml").cells[0].id
    printed = [words for page in PAGES for words in commands(page) if needs_a_cluster(words)]
    assert [words[0] for words in printed] == ["submit", "status", "logs", "cancel"]
    for words in printed:
        done = CliRunner().invoke(app, [word.replace("CELL", cell) for word in words])
        assert done.exit_code == 0, f"kdbench {' '.join(words)}: {done.output} {done.exception}"
    counts = plan(load("my_grid.yaml"), Store(Path("results"))).counts()
    assert counts[State.FINISHED] == sum(counts.values())
