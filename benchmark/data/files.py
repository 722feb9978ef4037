"""Data sets too large for a device: one folder of images per class, decoded by workers while the device computes.

A view of an image is a number here too: the seed of its random crop and flip. As in memory, the order and the views of
an epoch depend only on (seed, epoch), not on the number of workers or the step at which a run is resumed.
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
from kdbench.benchmark.randomness import seed_torch
from kdbench.refusal import Refusal


def cores() -> int:
    """The number of cores that this process may use, or of all cores if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CPU = torch.device("cpu")
WORKERS = min(16, max(1, cores() - 1))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SIDE = 224
WHOLE = -1  # the view for evaluation: the centre crop

Steps = list[list[tuple[int, int]]]  # the row and the view of each image in each batch


@dataclass(frozen=True)
class Files:
    """Labelled images in files; decoded images go to the labels' device."""

    paths: np.ndarray[tuple[int], np.dtype[np.bytes_]]  # one block of memory, shared by forked workers
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
        """Hash of the images' names, sizes and labels, in order; a million files are too many to read.

        A name is PART/CLASS/FILE: a copy elsewhere, as on a node's scratch disk, has the same digest.
        """
        names = (path.rsplit(b"/", 3)[1:] for path in self.paths.tolist())
        total = hashlib.blake2b(b"\n".join(map(b"/".join, names)), digest_size=6)
        total.update(np.array([Path(os.fsdecode(path)).stat().st_size for path in self.paths]).data)
        total.update(self.labels.cpu().numpy().data)
        return total.hexdigest()

    def to(self, device: torch.device) -> "Files":
        return replace(self, labels=self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in the view for evaluation, with their labels."""
        rows = torch.arange(len(self)).split(size)
        steps: Steps = [[(row, WHOLE) for row in part.tolist()] for part in rows]
        yield from zip(Decoder(self).decode(steps), self.labels.split(size), strict=True)


class Pictures:
    """The data set that workers read: any image in any view.

    It must hold no reference to the loader. A loader in a reference cycle waits for the garbage collector. Workers that
    are forked in the meantime inherit it and would shut it down too.
    """

    def __init__(self, files: Files) -> None:
        from torchvision.transforms import v2  # takes a second, which a command that reads no data need not wait

        self.paths = files.paths
        self.whole = v2.Compose([v2.Resize(files.side * 256 // 224), v2.CenterCrop(files.side), v2.PILToTensor()])
        self.random = v2.Compose([v2.RandomResizedCrop(files.side), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __getitem__(self, what: tuple[int, int]) -> Tensor | Refusal:
        """One image in one view. A Refusal is returned: if a worker raised it, it would arrive with a traceback."""
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
            seed_torch(view, CPU)
            seen: Tensor = self.random(image)
            return seen


class Decoder:
    """Workers that decode batches in advance and live as long as this object."""

    def __init__(self, files: Files) -> None:
        self.device = files.labels.device
        self.steps: Steps = []
        self.loader: DataLoader[Tensor | Refusal] = DataLoader(
            Pictures(files),  # type: ignore[arg-type]  # the loader needs only __getitem__
            batch_sampler=self.steps,
            num_workers=WORKERS,
            multiprocessing_context="fork" if WORKERS else None,  # in a spawned process the default is spawn
            collate_fn=collated,
            pin_memory=self.device.type == "cuda",
            persistent_workers=WORKERS > 0,
            generator=torch.Generator(),  # the loader draws a number, which must not be one of the run's
        )

    def decode(self, steps: Steps) -> Iterator[Tensor]:
        self.steps[:] = steps
        for images in self.loader:
            if isinstance(images, Refusal):
                raise Refusal(str(images))  # the original's traceback would form a reference cycle
            yield images.to(self.device, non_blocking=True)


def collated(images: list[Tensor | Refusal]) -> Tensor | Refusal:
    tensors = []
    for image in images:
        if isinstance(image, Refusal):
            return image
        tensors.append(image)
    return torch.stack(tensors).contiguous()  # PIL has channels last; the engine decides where that is safe


class FileViews:
    """The counterpart of ``Views`` for images in files."""

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
    """The views of a data set, in memory or in files."""
    return FileViews(data, data.train, augment) if isinstance(data.train, Files) else Views(data, augment)


# -- image folders ----------------------------------------------------------------------------------------------------


def read(folder: Path, side: int) -> Dataset:
    (train, classes), (test, others) = _listed(folder / "train", side), _listed(folder / "val", side)
    if differing := sorted({*classes} ^ {*others}):
        place = "train" if differing[0] in classes else "val"
        raise Refusal(f"{folder}: train/ and val/ must hold the same classes, got '{differing[0]}' in {place}/ only")
    return Dataset(train, test, MEAN, STD, crop=0, flip=True)


def _listed(root: Path, side: int) -> tuple[Files, list[str]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(root))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise Refusal(f"{root} must be a folder with one folder of images per class: {reason}") from None
    paths = np.array([os.fsencode(path) for path, _ in found.samples])
    return Files(paths, torch.tensor(found.targets), side), found.classes


@lru_cache
def named(place: str) -> Source:
    """The source of ``imagefolder:PATH``, or of ``imagefolder:PATH@64`` for 64 pixels instead of 224."""
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
