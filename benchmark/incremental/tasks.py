"""The classes of a data set in their order of arrival."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdbench.benchmark.data.dataset import Dataset, Images
from kdbench.benchmark.randomness import stream


@dataclass(frozen=True)
class Task:
    """A task. Classes are numbered in order of arrival: those below ``old`` are there before the task, those below
    ``seen`` after it."""

    number: int
    old: int
    seen: int

    def new(self, images: Images) -> Tensor:
        """The rows of the images whose class arrives with this task."""
        return ((images.labels >= self.old) & (images.labels < self.seen)).nonzero().flatten()


def tasks(sizes: Sequence[int]) -> Iterator[Task]:
    seen = 0
    for number, size in enumerate(sizes):
        yield Task(number, seen, seen + size)
        seen += size


def order(classes: int, seed: int) -> Tensor:
    """The order of arrival for a seed; it is the same for every method and every number of tasks."""
    return torch.randperm(classes, generator=torch.Generator().manual_seed(stream("classes", seed)))


def arriving(data: Dataset, order: Tensor) -> Dataset:
    """The same images; each class's label is its place in the order."""
    place = order.argsort()
    train, test = (images.labelled(place[images.labels]) for images in (data.train, data.test))
    return replace(data, train=train, test=test)
