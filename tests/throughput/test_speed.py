"""The speed of the loop compared with an ordinary implementation, in one run on one machine: ``make bench``.

Noise replaces CIFAR-100, because the content of images does not change speed.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.benchmark import networks
from kdbench.benchmark.data import Dataset, Split
from kdbench.benchmark.data.views import Views, draws
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.throughput.measure import learners, memory
from kdbench.benchmark.throughput.peak import synchronise
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.training.recipe import RECIPES, Recipe
from tests.throughput import yardstick

ENGINE = Engine.best()
CUDA = ENGINE.device.type == "cuda"
PAIRS = {("resnet32x4", "resnet8x4"): 1, ("resnet56", "resnet20"): 3}  # with the steps of a round on two cores
BATCH, CLASSES, IMAGE = 64, 100, (3, 32, 32)
WARM_UP, ROUNDS = 4, 5

pairs = pytest.mark.parametrize("pair", PAIRS, ids="→".join)


@pytest.fixture(autouse=True)
def _all_cores(_one_thread: None) -> Iterator[None]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def noise() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, *IMAGE), generator=draw, dtype=torch.uint8)
    train = Split(images, torch.randint(CLASSES, (len(images),), generator=draw))
    return Dataset(train, train[torch.arange(10)], yardstick.MEAN, yardstick.STD, crop=4, flip=True)


@pytest.fixture(scope="module")
def pictures(noise: Dataset) -> yardstick.Pictures:
    return yardstick.Pictures(noise.train.images.permute(0, 2, 3, 1).numpy(), noise.train.labels.tolist())


def clock(benchmark: BenchmarkFixture, steps: Iterator[object], count: int, **about: str) -> None:
    """Time rounds of ``count`` steps, including all work that they started."""

    def walk() -> None:
        for _ in islice(steps, count):
            pass
        synchronise(ENGINE.device)

    for _ in islice(steps, WARM_UP):
        pass
    benchmark.pedantic(walk, rounds=ROUNDS, warmup_rounds=1)
    speed = round(BATCH * count / benchmark.stats["median"], 1)
    benchmark.extra_info.update(about, images_per_second=speed)


def steps_of(pair: tuple[str, str]) -> int:
    return PAIRS[pair] * (30 if CUDA else 1)


@pairs
def test_yardstick(benchmark: BenchmarkFixture, pair: tuple[str, str], pictures: yardstick.Pictures) -> None:
    teacher, student = (networks.build(name, CLASSES, IMAGE) for name in pair)
    steps = yardstick.steps(student, teacher, pictures, BATCH, ENGINE.device)
    clock(benchmark, steps, steps_of(pair), pair=" → ".join(pair), way="yardstick", precision="fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", ["live", "remembered", "ce"])
@pairs
def test_loop(
    benchmark: BenchmarkFixture, pair: tuple[str, str], way: str, precision: str, noise: Dataset, tmp_path: Path
) -> None:
    cell = a_cell(pair, "ce" if way == "ce" else "kd", precision)
    count = steps_of(pair)

    def begun() -> Iterator[Live]:
        taught = learners(cell, noise, ENGINE)
        answers = memory(taught, noise, cell.training, tmp_path) if way == "remembered" else None
        return taught.steps(noise, cell.training, ENGINE, answers)

    if way == "remembered":  # an earlier run fills the memory
        for _ in islice(begun(), WARM_UP + count * (1 + ROUNDS)):
            pass
    clock(benchmark, begun(), count, pair=" → ".join(pair), way=way, precision=precision)


def a_cell(pair: tuple[str, str], method: str, precision: str) -> Cell:
    recipe = Recipe(epochs=RECIPES["cifar-240"].epochs, batch=BATCH, precision=precision)
    teacher = Cell(dataset="cifar100", student=pair[0], method="ce", seed=0) if method != "ce" else None
    return Cell(
        dataset="cifar100", teacher=teacher, student=pair[1], method=method, params=complete(method, {}),
        recipe=recipe, seed=0,
    )  # fmt: skip


def test_augmentation_by_pil(benchmark: BenchmarkFixture, pictures: yardstick.Pictures) -> None:
    batches = iter(yardstick.loader(pictures, BATCH, ENGINE.device))
    clock(benchmark, batches, 40, pair="augmentation", way="yardstick", precision="fp32")


def test_augmentation(benchmark: BenchmarkFixture, noise: Dataset) -> None:
    data = noise.to(ENGINE.device)
    views = Views(data, augment=True)
    batches = (views.normalise(seen) for _, seen in views.shown(draws(data.train, views.count, BATCH, 0, "main", 1)))
    clock(benchmark, batches, 100, pair="augmentation", way="live", precision="fp32")
