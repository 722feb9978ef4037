"""A data set, a network, a run and a record that take no time."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.benchmark import cli, networks
from kdbench.benchmark.data import Dataset, Split
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Cost, Curves, Environment, Record, Result
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain

CLASSES, IMAGE = 4, (1, 8, 8)


@pytest.fixture
def dataset() -> Dataset:
    """Noise, in four classes that differ by their brightness: 60 images, so that a batch of 16 leaves one of 12."""
    generator = torch.Generator().manual_seed(3)

    def split(images: int) -> Split:
        labels = torch.arange(images) % CLASSES
        noise = torch.randint(100, (images, *IMAGE), generator=generator)
        return Split((noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    return Dataset(split(60), split(22), mean=(0.49,), std=(0.25,), crop=1, flip=True)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(epochs=2, batch=16, lr=0.05, schedule="constant")


@pytest.fixture
def make_student() -> Callable[[int], Chain]:
    """A tiny network whose initial weights are those of a seed."""

    def make(seed: int = 0) -> Chain:
        torch.manual_seed(seed)
        return networks.build("resnet8x0.25", CLASSES, IMAGE)

    return make


# -- cells, records of cells that never ran, and the command ----------------------------------------------------------

MakeCell = Callable[..., Cell]
MakeRecord = Callable[..., Record]
WriteGrid = Callable[..., Path]


@pytest.fixture
def make_cell(recipe: Recipe) -> MakeCell:
    """A cell on the digits; ``make_cell("kd", teacher="resnet14x0.5", seed=3)``."""

    def make(method: str = "ce", teacher: str | Cell | None = None, **asked: Any) -> Cell:
        if isinstance(teacher, str):
            teacher = make(student=teacher)
        asked["params"] = complete(method, asked.get("params", {}))
        basis = {"dataset": "digits", "student": "resnet8x0.25", "recipe": recipe, "protocol": "tiny", "seed": 0}
        return Cell(method=method, teacher=teacher, **(basis | asked))

    return make


@pytest.fixture
def make_record() -> MakeRecord:
    """What a cell would have left behind; ``make_record(cell, top1=71.5, seconds=10, speed=2000, environment="b")``."""

    def make(
        cell: Cell, top1: float = 50.0, *, seconds: float = 4.0, speed: float = 1000.0, environment: str = "here",
        teacher: float = 90.0, teacher_weights: str = "t" * 32, weights: str | None = None, data: str = "",
    ) -> Record:  # fmt: skip
        epochs = cell.recipe.epochs
        curves = Curves(
            lr=[0.1] * epochs, terms={"task": [1.0] * epochs}, top1=[top1] * epochs, test_loss=[1.0] * epochs
        )
        taught: dict[str, Any] = {"teacher_top1": teacher, "teacher_weights": teacher_weights} if cell.teacher else {}
        return Record(
            id=cell.id,
            cell=cell,
            result=Result(
                top1=top1, top5=99.0, test_loss=1.0, best_top1=top1 + 1, best_epoch=1, curves=curves,
                params=cell.params, weights=weights or ("w" if cell.teacher else "t") * 32, **taught,
            ),
            cost=Cost(
                seconds=seconds, wall_seconds=seconds + 1, images_per_second=speed,
                epoch_seconds=[seconds / epochs] * epochs, peak_memory_mb=100.0,
                student_parameters=5_000, method_parameters=0, deployed_parameters=5_000,
            ),
            environment=Environment(
                key=environment, arithmetic={}, machine={}, versions={}, git="", finished="2025-01-01T00:00:00+00:00"
            ),
            data=data,
        )  # fmt: skip

    return make


@pytest.fixture
def series(make_cell: MakeCell, make_record: MakeRecord) -> Callable[..., list[Record]]:
    """The records of one series: top-1 by seed."""

    def make(top1: dict[int, float], *cell: str, how: dict[str, Any] | None = None, **asked: Any) -> list[Record]:
        return [
            make_record(make_cell(*cell, seed=seed, **asked), top1=value, **(how or {})) for seed, value in top1.items()
        ]

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def ce(make_cell: MakeCell) -> Cell:
    return make_cell()


@pytest.fixture
def kd(make_cell: MakeCell) -> Cell:
    return make_cell("kd", teacher="resnet14x0.5")


@pytest.fixture
def grid(ce: Cell, kd: Cell) -> Grid:
    return Grid("tiny", "", (ce, kd))


@pytest.fixture
def write_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteGrid:
    """A grid in the working folder: one that is right but for what is changed or added; ``None`` leaves a key out."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | None = None, name: str = "grid.yaml", **changes: str | None) -> Path:
        right: dict[str, str | None] = {
            "datasets": "digits",
            "pairs": "resnet14x0.5 -> resnet8x0.25",
            "methods": "[ce, kd]",
            "recipe": "quick",
        }
        lines = [f"{key}: {value}\n" for key, value in (right | changes).items() if value is not None]
        file = Path(name)
        file.write_text("".join(lines) if text is None else text)
        return file

    return write


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Of a refusal: one line on stderr, nothing on stdout, exit code 2."""
        assert (self.code, self.out, self.err.count("\n")) == (2, "", 1), self
        assert self.err.startswith("kdbench: "), self
        return self.err.removeprefix("kdbench: ").rstrip("\n")


Command = Callable[..., Answer]


@pytest.fixture
def kdbench(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, as a shell calls it, but in this process; a traceback fails the test."""

    def call(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, words)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code
        out, err = capfd.readouterr()
        return Answer(code or 0, out, err)

    return call
