"""Exemplars: the images of a class that are kept after its task."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.benchmark.data.dataset import Dataset
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.incremental.tasks import Task
from kdbench.benchmark.randomness import stream
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.methods.chain import Chain


def kept(
    before: list[Tensor], asked: Incremental, task: Task, student: Chain, data: Dataset, engine: Engine, seed: int
) -> list[Tensor]:
    """The rows of the kept images in the training set, one tensor for each class seen so far.

    The images to keep longest come first: as the number of classes grows, the ends are dropped.
    """
    count = asked.of_each(task.seen)
    fresh = []
    for label in range(task.old, task.seen):
        rows = (data.train.labels == label).nonzero().flatten()
        if count:
            if asked.choice == "random":
                generator = torch.Generator().manual_seed(stream("exemplars", seed, label))
                rows = rows[torch.randperm(len(rows), generator=generator)]
            else:
                rows = rows[herded(embeddings(student, data, engine, rows), count)]
        fresh.append(rows)
    return [rows[:count] for rows in (*before, *fresh)]


@torch.no_grad()
def embeddings(student: Chain, data: Dataset, engine: Engine, rows: Tensor) -> Tensor:
    """The embeddings of training images without augmentation, as for evaluation."""
    student.eval()
    return torch.cat([student.trace(images).embedding.double().cpu() for images in shown(data, engine, rows)])


def herded(features: Tensor, count: int) -> Tensor:
    """Choose the images to keep one by one, as in iCaRL (Rebuffi et al. 2017).

    Each choice brings the mean of the chosen images as close as possible to the mean of all images.
    """
    features = F.normalize(features, dim=1)
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(features)):
        distance = (mean - (total + features) / (len(chosen) + 1)).norm(dim=1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        total, free[best] = total + features[best], False
        chosen.append(best)
    return torch.tensor(chosen)
