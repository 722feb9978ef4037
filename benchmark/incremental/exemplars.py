"""The images that are kept of classes once their task is over."""

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
    """For each class seen so far the rows of its images in the training set, those that will stay longest first: as
    the classes become more, the ends of the lists are dropped."""
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
    """Of training images as a network is tested on them: not augmented."""
    student.eval()
    return torch.cat([student.trace(images).embedding.double().cpu() for images in shown(data, engine, rows)])


def herded(features: Tensor, count: int) -> Tensor:
    """Which images to keep, one after the other: each brings the mean of those chosen as near as can be to the mean of
    all (Rebuffi et al. 2017, iCaRL)."""
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
