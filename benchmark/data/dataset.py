"""Data sets: images as bytes, labels, and the augmentations that preserve the class of an image."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kdbench.methods.registry import Registry
from kdbench.refusal import OWN, Refusal, in_a_sentence

HELD_OUT = ":held-out"

Shape = tuple[torch.dtype, tuple[int, ...]]


class Images(Protocol):
    """Labelled images, in memory (``Split``) or in files (``Files``)."""

    @property
    def labels(self) -> Tensor: ...  # (N,), int64
    @property
    def shape(self) -> Shape: ...  # of all images in one tensor: uint8, (N, C, H, W)
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor) -> "Images": ...
    def labelled(self, labels: Tensor) -> "Images": ...  # the same images with these labels
    def digest(self) -> str: ...  # hash of the images (if they are in memory), their labels and their order
    def to(self, device: torch.device) -> "Images": ...
    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]: ...  # images and labels, for evaluation


@dataclass(frozen=True)
class Split:
    images: Tensor  # (N, C, H, W), uint8
    labels: Tensor  # (N,), int64

    @property
    def shape(self) -> Shape:
        return self.images.dtype, tuple(self.images.shape)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Split":
        return Split(self.images[rows], self.labels[rows])

    def labelled(self, labels: Tensor) -> "Split":
        return Split(self.images, labels)

    def digest(self) -> str:
        """Hash of all images and labels, in order."""
        total = hashlib.blake2b(self.images.cpu().contiguous().numpy().data, digest_size=6)
        total.update(self.labels.cpu().numpy().data)
        return total.hexdigest()

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)


@dataclass(frozen=True)
class Dataset:
    """Training and test images; ``crop`` and ``flip`` are the augmentations that preserve the class of an image."""

    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int  # maximum shift in pixels, in each direction
    flip: bool

    def held_out(self) -> "Dataset":
        """The training set only, with a tenth of each class held out as test set, for tuning."""
        shuffled = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        out = []
        for label in self.train.labels.unique():
            rows = shuffled[self.train.labels[shuffled] == label]
            out.append(rows[: max(1, round(0.1 * len(rows)))])
        held = torch.zeros(len(self.train), dtype=torch.bool)
        held[torch.cat(out)] = True
        return replace(self, train=self.train[~held], test=self.train[held])

    def digest(self) -> str:
        """Hash of the training and the test set."""
        return f"{self.train.digest()} {self.test.digest()}"

    def to(self, device: torch.device) -> "Dataset":
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def moves(crop: int, flip: bool) -> int:
    """Number of views of an image that crops and flips give."""
    return (2 * crop + 1) ** 2 * (1 + flip)


@dataclass(frozen=True)
class Source:
    """Facts about a data set that are known before it is read, and the function that reads it from a folder."""

    classes: int
    image: tuple[int, int, int]
    train: int
    test: int
    read: Callable[[Path], Dataset]
    views: int | None = None  # augmented views of an image; if None, a plan cannot estimate a teacher's memory
    files: tuple[str, ...] = ()  # glob patterns in that folder; only the first that matches is read

    def found(self, folder: Path) -> list[Path]:
        """The files of the first pattern that matches: the packed file, or else the original files."""
        return next((found for pattern in self.files if (found := sorted(folder.glob(pattern)))), [])


DATASETS: Registry[Source] = Registry("data set", OWN)
PREFIXES: dict[str, Callable[[str], Source]] = {}  # ``prefix:anything`` is a data set without registration


def source(name: str) -> Source:
    """The source of a data set; ``cifar100:held-out`` (a tenth of the training set held out) has that of the whole."""
    name = name.removesuffix(HELD_OUT)
    prefix, _, rest = name.partition(":")
    return PREFIXES[prefix](rest) if prefix in PREFIXES else DATASETS[name]


def load(name: str, folder: Path) -> Dataset:
    """Read a data set and check it against its source."""
    known = source(name)
    try:
        data = known.read(folder)
    except (Refusal, MemoryError, OSError):  # these say what is wrong
        raise
    except Exception as error:
        raise Refusal(f"{name} cannot be read: {in_a_sentence(error)}") from error
    if not isinstance(data, Dataset):
        raise Refusal(f"{name}: its reader must return a Dataset, got a {type(data).__name__}")
    if not len(data.mean) == len(data.std) == known.image[0] or min(data.std) <= 0:
        raise Refusal(f"{name}: mean and std must have {known.image[0]} numbers each, and std must be above 0")
    for part, split, images in (("training", data.train, known.train), ("test", data.test, known.test)):
        want, (kind, got) = (images, *known.image), split.shape
        if want != got or kind != torch.uint8:
            raise Refusal(f"{name}: the {part} images must be uint8 of shape {want}, got {kind} {got}")
        if split.labels.dtype != torch.int64:
            raise Refusal(f"{name}: the {part} set's labels must be int64, got {split.labels.dtype}")
        if split.labels.shape != (images,) or int(split.labels.min()) < 0 or int(split.labels.max()) >= known.classes:
            raise Refusal(f"{name}: the {part} set must have {images} labels from 0 to {known.classes - 1}")
    return data.held_out() if name.endswith(HELD_OUT) else data
