"""A data set as tensors: images as bytes, labels, and how its images may be moved about."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kdbench.methods.refusal import Refusal
from kdbench.methods.registry import Registry

HELD_OUT = ":held-out"


@dataclass(frozen=True)
class Split:
    images: Tensor  # (N, C, H, W), uint8
    labels: Tensor  # (N,), int64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Split":
        return Split(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test images; ``crop`` and ``flip`` say which moves leave an image what it is."""

    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int  # pixels that an image may be shifted by, in each direction
    flip: bool

    def held_out(self, share: float = 0.1) -> "Dataset":
        """The training set alone, a share of each class held out as test set: what to tune on."""
        shuffled = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        out = []
        for label in self.train.labels.unique():
            rows = shuffled[self.train.labels[shuffled] == label]
            out.append(rows[: max(1, round(share * len(rows)))])
        held = torch.zeros(len(self.train), dtype=torch.bool)
        held[torch.cat(out)] = True
        return replace(self, train=self.train[~held], test=self.train[held])

    def to(self, device: torch.device) -> "Dataset":
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read, and how it is read from a folder."""

    classes: int
    image: tuple[int, int, int]
    train: int
    test: int
    read: Callable[[Path], Dataset]


DATASETS: Registry[Source] = Registry("data set")


def source(name: str) -> Source:
    """What is known of a data set, or of its training set with a tenth held out: ``cifar100:held-out``."""
    return DATASETS[name.removesuffix(HELD_OUT)]


def load(name: str, folder: Path) -> Dataset:
    """Read a data set and see that it is what its source says."""
    known = source(name)
    data = known.read(folder)
    for part, split, images in (("training", data.train, known.train), ("test", data.test, known.test)):
        want, got = (images, *known.image), tuple(split.images.shape)
        if want != got or split.images.dtype != torch.uint8:
            raise Refusal(f"{name}: the {part} images must be bytes of shape {want}, got {split.images.dtype} {got}")
        if split.labels.shape != (images,) or int(split.labels.min()) < 0 or int(split.labels.max()) >= known.classes:
            raise Refusal(f"{name}: the {part} set must have {images} labels from 0 to {known.classes - 1}")
    return data.held_out() if name.endswith(HELD_OUT) else data
