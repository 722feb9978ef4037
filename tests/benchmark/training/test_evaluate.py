"""The numbers on a test set against their definition."""

import math

import pytest
import torch
from torch import Tensor, nn

from kdbench.benchmark.data import Dataset, Split
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.training.evaluate import Score, evaluate

CLASSES, IMAGES = 10, 47
CPU = torch.device("cpu")


class Lookup(nn.Module):
    """Knows the logits of every image: each image is its own number."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return self.logits[images.flatten().mul(255).round().long()]


def score(logits: Tensor, labels: Tensor) -> tuple[Score, list[int]]:
    numbers = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    test = Split(numbers, labels)
    network = Lookup(logits)
    return evaluate(network, test, Normalise(Dataset(test, test, (0.0,), (1.0,), 0, False), CPU)), network.sizes


def random_logits(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(IMAGES, CLASSES, generator=draw), torch.randint(CLASSES, (IMAGES,), generator=draw)


def naive(logits: Tensor, labels: Tensor) -> tuple[float, float, float]:
    first = fifth = loss = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(CLASSES), key=lambda c: -row[c])  # stable: of equals the first
        first += ranking[0] == label
        fifth += label in ranking[:5]
        loss += math.log(sum(math.exp(z) for z in row)) - row[label]
    return 100 * first / IMAGES, 100 * fifth / IMAGES, loss / IMAGES


@pytest.mark.parametrize("batch", [500, 47, 10, 1])
def test_accuracies_and_loss_are_means_over_images_whatever_the_batch(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("kdbench.benchmark.training.evaluate.BATCH", batch)
    logits, labels = random_logits()
    got, sizes = score(logits, labels)
    assert (got.top1, got.top5, got.loss) == pytest.approx(naive(logits, labels), rel=1e-6)
    assert 0 < got.top1 < got.top5 < 100
    assert (sum(sizes), max(sizes), len(sizes)) == (IMAGES, min(batch, IMAGES), math.ceil(IMAGES / batch))


def test_of_equal_logits_the_first_counts_as_in_argmax() -> None:
    logits, labels = random_logits()
    coarse = logits.round()  # as bf16 does it, with more ties
    got, _ = score(coarse, labels)
    assert (got.top1, got.top5, got.loss) == pytest.approx(naive(coarse, labels), rel=1e-6)
    assert got.top1 == pytest.approx(100 * float((coarse.argmax(1) == labels).double().mean()))


def test_a_network_that_says_the_same_of_every_class_is_right_by_chance_alone() -> None:
    labels = torch.arange(40) % CLASSES
    got, _ = score(torch.zeros(40, CLASSES), labels)
    assert (got.top1, got.top5) == (10.0, 50.0)


def test_logits_that_are_no_numbers_are_never_right() -> None:
    logits, labels = random_logits()
    got, _ = score(torch.full_like(logits, math.nan), labels)
    assert (got.top1, got.top5) == (0.0, 0.0)
    assert math.isnan(got.loss)


class Moody(nn.Module):
    """Right in eval mode alone, and remembers whether anyone wanted gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.graph = False

    def forward(self, images: Tensor) -> Tensor:
        logits = nn.functional.one_hot(torch.full((len(images),), int(self.training)), CLASSES) * self.scale
        self.graph |= logits.requires_grad
        return logits


def test_a_network_is_judged_in_eval_mode_and_without_gradients() -> None:
    test = Split(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.zeros(5).long())
    network = Moody().train()
    got = evaluate(network, test, Normalise(Dataset(test, test, (0.0,), (1.0,), 0, False), CPU))
    assert got.top1 == 100
    assert not network.graph
