"""Data sets that fit on no device: folders of class folders of images, decoded by workers while the device computes.

A view of an image is a number here too: the seed of its random crop and flip. So the order and the views of an epoch
follow from (seed, epoch) as they do in memory, and nothing depends on the number of workers or on where a run began.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from kdbench.benchmark.data.dataset import DATASETS, PREFIXES, Dataset, Shape, Source
from kdbench.benchmark.data.views import Draw, Normalise, Views, views_of_an_image
from kdbench.refusal import Refusal


def cores() -> int:
    """Those that this process may use, where the system says so, or all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WORKERS = min(16, max(1, cores() - 1))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SIDE = 224
WHOLE = -1  # the view of an image as it is tested: its middle

Steps = list[list[tuple[int, int]]]  # the row and the view of each image of each batch


@dataclass(frozen=True)
class Files:
    """Labelled images in files; where the labels are, there the images are wanted."""

    paths: np.ndarray[tuple[int], np.dtype[np.bytes_]]  # one block of memory that forked workers share
    labels: Tensor
    side: int

    @property
    def shape(self) -> Shape:
        return torch.uint8, (len(self), 3, self.side, self.side)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> "Files":
        return replace(self, paths=self.paths[rows.cpu().numpy()], labels=self.labels[rows])

    def labelled(self, labels: Tensor) -> "Files":
        return replace(self, labels=labels)

    def digest(self) -> str:
        """Of the images' names, sizes and labels, in their order: a million files are not read for it."""
        total = hashlib.blake2b(self.paths.tobytes(), digest_size=6)
        total.update(np.array([Path(os.fsdecode(path)).stat().st_size for path in self.paths]).data)
        total.update(self.labels.cpu().numpy().data)
        return total.hexdigest()

    def to(self, device: torch.device) -> "Files":
        return replace(self, labels=self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as they are tested, with their labels."""
        rows = torch.arange(len(self)).split(size)
        steps: Steps = [[(row, WHOLE) for row in part.tolist()] for part in rows]
        yield from zip(Decoder(self).decode(steps), self.labels.split(size), strict=True)


class Pictures:
    """What a worker is asked: any image from any view. The loader must not be reached from here: one that waits in a
    circle for the garbage collector is inherited by workers that are forked meanwhile, and they would end it too."""

    def __init__(self, files: Files) -> None:
        from torchvision.transforms import v2  # takes a second, which a command that reads no data need not wait

        self.paths = files.paths
        self.whole = v2.Compose([v2.Resize(files.side * 256 // 224), v2.CenterCrop(files.side), v2.PILToTensor()])
        self.random = v2.Compose([v2.RandomResizedCrop(files.side), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __getitem__(self, what: tuple[int, int]) -> Tensor | Refusal:
        """One image from one view; a worker's exception would arrive with a traceback, a returned one as it is."""
        row, view = what
        file = os.fsdecode(self.paths[row])
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            return Refusal(f"{file} must be an image: {error}")
        if view == WHOLE:
            whole: Tensor = self.whole(image)
            return whole
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(view)
            seen: Tensor = self.random(image)
            return seen


class Decoder:
    """Workers that decode batches ahead of the one in use, and live as long as this does."""

    def __init__(self, files: Files) -> None:
        self.device = files.labels.device
        self.steps: Steps = []
        self.loader: DataLoader[Tensor | Refusal] = DataLoader(
            Pictures(files),  # type: ignore[arg-type]  # __getitem__ is all that is asked of a data set
            batch_sampler=self.steps,
            num_workers=WORKERS,
            multiprocessing_context="fork" if WORKERS else None,  # a process that was spawned would spawn them
            collate_fn=collated,
            pin_memory=self.device.type == "cuda",
            persistent_workers=WORKERS > 0,
            generator=torch.Generator(),  # the loader draws a number; let it not be one of the run's
        )

    def decode(self, steps: Steps) -> Iterator[Tensor]:
        self.steps[:] = steps
        for images in self.loader:
            if isinstance(images, Refusal):
                raise Refusal(str(images))  # not itself, whose traceback would lead back to it: a circle again
            yield images.to(self.device, non_blocking=True)


def collated(images: list[Tensor | Refusal]) -> Tensor | Refusal:
    tensors = []
    for image in images:
        if isinstance(image, Refusal):
            return image
        tensors.append(image)
    return torch.stack(tensors).contiguous()  # PIL has channels last; the engine says where that is safe


class FileViews:
    """What ``Views`` is to images in memory."""

    def __init__(self, data: Dataset, files: Files, augment: bool) -> None:
        self.augment = augment
        self.count = views_of_an_image(data, augment)
        self.normalise = Normalise(data, files.labels.device)
        self.decoder = Decoder(files)

    def shown(self, draws: Iterable[Draw]) -> Iterator[tuple[Draw, Tensor]]:
        steps = list(draws)
        looks = (step.view if self.augment else torch.full_like(step.view, WHOLE) for step in steps)
        pairs = [torch.stack([step.index, look], 1).tolist() for step, look in zip(steps, looks, strict=True)]
        yield from zip(steps, self.decoder.decode(pairs), strict=True)


def views(data: Dataset, augment: bool) -> Views | FileViews:
    """The views of a data set, wherever its images are."""
    return FileViews(data, data.train, augment) if isinstance(data.train, Files) else Views(data, augment)


# -- folders of class folders -----------------------------------------------------------------------------------------


def read(folder: Path, side: int) -> Dataset:
    (train, classes), (test, others) = _listed(folder / "train", side), _listed(folder / "val", side)
    if differing := sorted({*classes} ^ {*others}):
        place = "train" if differing[0] in classes else "val"
        raise Refusal(f"{folder}: train/ and val/ must hold the same classes, got '{differing[0]}' in {place}/ alone")
    return Dataset(train, test, MEAN, STD, crop=0, flip=True)


def _listed(root: Path, side: int) -> tuple[Files, list[str]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(root))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise Refusal(f"{root} must be a folder of class folders of images: {reason}") from None
    paths = np.array([os.fsencode(path) for path, _ in found.samples])
    return Files(paths, torch.tensor(found.targets), side), found.classes


@lru_cache
def named(place: str) -> Source:
    """``imagefolder:PATH``, or ``imagefolder:PATH@64`` for images of another size than 224 pixels."""
    path, at, size = place.rpartition("@")
    if not (at and size.isdecimal()):
        path, size = place, str(SIDE)
    data = read(Path(path), int(size))
    image = (3, int(size), int(size))
    return Source(len(data.train.labels.unique()), image, len(data.train), len(data.test), lambda _: data)


PREFIXES["imagefolder"] = named
DATASETS.register("imagenet")(
    Source(
        *(1000, (3, SIDE, SIDE), 1_281_167, 50_000),
        read=lambda folder: read(folder / "imagenet", SIDE),
        files=("imagenet.tar", "imagenet"),
    )
)
