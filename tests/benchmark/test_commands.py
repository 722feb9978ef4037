"""Every command that the README and the pages print runs, on the digits; those for a cluster have a test of theirs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdbench.benchmark.cli import app
from kdbench.benchmark.data import load
from kdbench.benchmark.networks import build
from tests.pages import PAGES, ROOT, commands, named, needs_a_cluster, small

README = ROOT / "README.md"
PRINTED = {page.name: [words for words in commands(page) if not needs_a_cluster(words)] for page in PAGES}


def ran(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"kdbench {' '.join(words)}: {done.output} {done.exception}"
    return done.output


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who has run the README's grid."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_grid.yaml").write_text(small(named(README, "my_grid.yaml")))
    (folder / "my_method.py").write_text(named(README, "my_method.py"))
    (folder / "my_cluster.yaml").write_text(named(ROOT / "docs" / "clusters.md", "my_cluster.yaml"))
    for name in ("FILE.pth", "resnet56.pth"):
        torch.save(build("resnet56", classes=10, image=(1, 8, 8)).state_dict(), folder / name)
    with pytest.MonkeyPatch.context() as there:
        there.chdir(folder)
        ran("run", "my_grid.yaml")
        ran("records", "export", "--to", "theirs.zip")
        for shipped in (ROOT / "results/replicas").iterdir():  # in a clone; here of the reader's own records
            ran("records", "export", "--to", f"results/replicas/{shipped.name}")
    return folder


@pytest.mark.parametrize("page", [name for name, printed in PRINTED.items() if printed])
def test_what_a_page_prints_runs(page: str, readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(readers, tmp_path / "reader")
    monkeypatch.chdir(folder)
    cell = next(Path("results/records").glob("*-kd-*.json")).stem
    for words in PRINTED[page]:
        ran(*(word.replace("CELL", cell).replace("cifar100", "digits") for word in words))


def test_the_readmes_method_trains(readers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(shutil.copytree(readers, tmp_path / "reader"))
    assert "logit_mse" in ran("list", "methods", "--with", "my_method.py")
    grid = Path("my_grid.yaml").read_text().replace("  - ce\n", "  - logit_mse\n")
    Path("mine.yaml").write_text(f"files: my_method.py\n{grid}")
    assert "logit_mse" in ran("run", "mine.yaml")


GUESTS = """\
files: [my_network.py, my_data.py]
datasets: my_images
pairs: resnet8 -> two_blocks
methods: [ce, fitnet]
recipe: {base: quick, epochs: 1}
"""


def test_a_network_and_a_data_set_are_added_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_network.py", "my_data.py"):
        Path(name).write_text(named(ROOT / "CONTRIBUTING.md", name))
    digits = load("digits", tmp_path)
    images = torch.cat([digits.test.images, digits.train.images]).numpy()
    labels = torch.cat([digits.test.labels, digits.train.labels]).numpy()
    Path("data").mkdir()
    np.savez("data/mine.npz", train_images=images[:1000], train_labels=labels[:1000],
             test_images=images[1000:], test_labels=labels[1000:])  # fmt: skip
    Path("guests.yaml").write_text(GUESTS)
    assert "two_blocks" in ran("run", "guests.yaml", "--data", "data")
