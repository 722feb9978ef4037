"""Evaluation of a network on a test set."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.data.dataset import Dataset, Images
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.ranks import ALONE, Ranks

BATCH = 250


@dataclass(frozen=True)
class Score:
    top1: float  # percent
    top5: float
    loss: float


@torch.no_grad()
def evaluate(network: nn.Module, test: Images, normalise: Normalise, among: Ranks = ALONE) -> Score:
    """Top-1, top-5 and cross-entropy, with large batches and one wait for the device; ranks share the images."""
    network.eval()
    rows = []
    for images, labels in among.part(test).batches(BATCH):
        logits = network(normalise(images))
        own, order = logits.gather(1, labels[:, None]), torch.arange(logits.shape[1], device=logits.device)
        # How many classes rank above the right one. The first of equals wins, as in argmax, and NaN is never right.
        ranks = (~(logits <= own) | ((logits == own) & (order < labels[:, None]))).sum(1)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        rows.append(torch.stack([(ranks < 1).sum(), (ranks < 5).sum(), loss]))
    top1, top5, loss = (among.summed(torch.stack(rows).double().sum(0)) / len(test)).tolist()
    return Score(100 * top1, 100 * top5, loss)


def shown(dataset: Dataset, engine: Engine, rows: Tensor) -> Iterator[Tensor]:
    """Training images without augmentation, as for evaluation."""
    normalise = Normalise(dataset, engine.device)
    for images, _ in dataset.train[rows].batches(500):
        yield normalise(images.to(engine.device))
