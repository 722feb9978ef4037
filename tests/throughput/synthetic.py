"""A results folder of any size with valid records of a whole grid in packs, like years of cluster runs leave it.

python -m tests.throughput.synthetic FOLDER 100000
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kdbench.benchmark.plans.grid import Grid, load
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Cost, Curves, Environment, Record, Result
from kdbench.benchmark.whole import write

SHEET = """\
datasets: [cifar10, cifar100]
pairs:
  - wrn_40_2 -> wrn_16_2
  - wrn_40_2 -> wrn_40_1
  - resnet56 -> resnet20
  - resnet110 -> resnet20
  - resnet110 -> resnet32
  - resnet32x4 -> resnet8x4
  - vgg13 -> vgg8
  - resnet32x4 -> ShuffleV1
  - resnet32x4 -> ShuffleV2
  - wrn_40_2 -> ShuffleV1
methods:
  - ce
  - kd: {temperature: {sweep: [1, 2, 3, 4, 5, 6, 8, 10, 12, 16]}}
  - dkd: {beta: {sweep: [1, 2, 4, 6, 8, 10]}}
  - crd: {weight: {sweep: [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]}}
  - at: {weight: {sweep: [10, 30, 100, 300, 1000, 3000]}}
  - fitnet: {weight: {sweep: [1, 3, 10, 30, 100, 300]}}
  - vid: {weight: {sweep: [0.1, 0.3, 1, 3, 10]}}
  - weighted_features: {weight: {sweep: [0.1, 0.3, 1, 3, 10]}}
  - weighted_logits: {weight: {sweep: [0.1, 0.3, 1, 3, 10]}}
recipe: cifar-240
"""
A_SEED = 2 * 10 * 50  # cells
CURVES = 256  # different curves; all other values are specific to the cell
EPOCHS = 240


def grid(folder: Path, cells: int) -> Grid:
    """A grid of this many cells, 1,000 for each seed; its file is ``folder/synthetic.yaml``."""
    file = folder / "synthetic.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{SHEET}seeds: {max(1, cells // A_SEED)}\n")
    return load(str(file))


def fill(results: Path, grid: Grid) -> int:
    """Write records of all cells and teachers of a grid, in packs, and return their number."""
    draw = np.random.default_rng(0)
    curves = [_curves(draw) for _ in range(CURVES)]
    packs: dict[str, list[Cell]] = defaultdict(list)
    for cell in (*grid.teachers.values(), *grid.cells):
        packs[re.sub(r"[^\w.→]+", "_", f"{cell.dataset} {cell.pair}")].append(cell)
    for name, cells in packs.items():
        of = sorted(cells, key=lambda cell: cell.id)
        lines = (msgspec.json.encode(_record(cell, *curves[draw.integers(CURVES)])) + b"\n" for cell in of)
        write(results / "records" / f"{name}.jsonl", b"".join(lines))
    return sum(map(len, packs.values()))


def _curves(draw: np.random.Generator) -> tuple[list[float], list[float], Any, Any]:
    """Top-1 and loss by epoch, and as encoded JSON all curves and the seconds of each epoch."""
    share = np.linspace(0, 1, EPOCHS)
    top1 = np.round(72 - 50 * np.exp(-6 * share) + draw.normal(0, 0.4, EPOCHS), 2).tolist()
    loss = (1 + 3 * np.exp(-6 * share) + draw.normal(0, 0.02, EPOCHS)).tolist()
    whole = Curves(
        lr=[0.05 * 0.1 ** sum(epoch >= stone for stone in (150, 180, 210)) for epoch in range(EPOCHS)],
        terms={"task": (np.array(loss) * 0.9).tolist(), "knowledge": draw.gamma(9, 0.1, EPOCHS).tolist()},
        top1=top1,
        test_loss=loss,
    )
    seconds = np.round(draw.normal(12, 0.3, EPOCHS), 4).tolist()
    return top1, loss, msgspec.Raw(msgspec.json.encode(whole)), msgspec.Raw(msgspec.json.encode(seconds))


def _record(cell: Cell, top1: list[float], loss: list[float], curves: Any, seconds: Any) -> Record:
    return Record(
        id=cell.id,
        cell=cell,
        result=Result(
            top1=top1[-1], top5=93.21, test_loss=loss[-1], best_top1=max(top1), best_epoch=1 + top1.index(max(top1)),
            curves=curves, params=cell.params, weights=cell.id[-12:],
            teacher_weights=cell.teacher and cell.teacher.id[-12:], teacher_top1=79.42 if cell.teacher else None,
        ),
        cost=Cost(
            seconds=2900.0, wall_seconds=2950.0, images_per_second=4150.0, epoch_seconds=seconds,
            peak_memory_mb=812.5, student_parameters=278_324, method_parameters=0, deployed_parameters=278_324,
        ),
        environment=Environment(
            key="5e4f0c1d", arithmetic={"device": "AVX512", "threads": 2}, machine={"cores": 2}, versions={}, git="",
            finished="2026-01-01T00:00:00+00:00",
        ),
    )  # fmt: skip


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(fill(place / "results", grid(place, int(sys.argv[2]))), "records in", place / "results")
