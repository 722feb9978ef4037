"""Data sets that torchvision knows, from a packed .npz, from torchvision's own files, or downloaded by torchvision.

torchvision shows the progress of a download and verifies the files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.benchmark.data import packed
from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split, moves
from kdbench.refusal import Refusal

Opener = Callable[[Path, bool], Any]


def by_train(kind: str) -> Opener:
    return lambda folder, train: _class(kind)(str(folder), train=train, download=True)


def by_split(kind: str) -> Opener:
    return lambda folder, train: _class(kind)(str(folder), split="train" if train else "test", download=True)


def _class(kind: str) -> Any:
    from torchvision import datasets  # takes a second; only needed to read data

    return getattr(datasets, kind)


@dataclass(frozen=True)
class Kept:
    """How torchvision stores a data set, and facts about it."""

    open: Opener
    files: str  # glob pattern in the data folder
    classes: int
    image: tuple[int, int, int]
    train: int
    test: int
    mean: tuple[float, ...]  # of the training images, as is std
    std: tuple[float, ...]
    flip: bool = True  # our choice for SVHN and Fashion-MNIST: a mirrored digit is no digit, a mirrored shoe is a shoe
    crop: int = 4  # our choice for SVHN and Fashion-MNIST; the field's for CIFAR


KEPT = {
    "cifar10": Kept(
        by_train("CIFAR10"), "cifar-10-batches-py/*", 10, (3, 32, 32), 50_000, 10_000,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Kept(
        by_train("CIFAR100"), "cifar-100-python/*", 100, (3, 32, 32), 50_000, 10_000,
        mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761),
    ),
    "fashion-mnist": Kept(
        by_train("FashionMNIST"), "FashionMNIST/raw/*", 10, (1, 28, 28), 60_000, 10_000,
        mean=(0.2860,), std=(0.3530,),
    ),
    "svhn": Kept(
        by_split("SVHN"), "*_32x32.mat", 10, (3, 32, 32), 73_257, 26_032,
        mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970), flip=False,
    ),
}  # fmt: skip


def read(folder: Path, name: str) -> Dataset:
    kept, file = KEPT[name], folder / f"{name}.npz"
    parts = packed.unpack(file) if file.exists() else (_opened(folder, name, True), _opened(folder, name, False))
    return Dataset(*parts, kept.mean, kept.std, kept.crop, kept.flip)


def _opened(folder: Path, name: str, train: bool) -> Split:
    """The training or the test set; torchvision downloads missing files, and damaged ones if it detects the damage."""
    files = KEPT[name].files
    there = any(folder.glob(files))
    try:
        part = KEPT[name].open(folder, train)
        return Split(_images(part.data), torch.as_tensor(part.targets if hasattr(part, "targets") else part.labels))
    except Exception as error:  # torchvision asserts, and passes on errors of urllib, gzip, pickle and SciPy
        reason = " ".join(str(error).split()) or type(error).__name__
    if there:
        raise Refusal(
            f"{name}: {files} in {folder} is incomplete or damaged ({reason});"
            " remove it, or name another folder with --data"
        )
    raise Refusal(
        f"{name}: found neither {name}.npz nor {files} in {folder}, and could not download it ({reason});"
        " put either there, or name the folder with --data"
    )


def _images(data: Any) -> Tensor:
    """Images as (N, C, H, W), from (N, C, H, W), (N, H, W, 3) or (N, H, W)."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


for _name, _kept in KEPT.items():
    DATASETS.register(_name)(
        Source(
            *(_kept.classes, _kept.image, _kept.train, _kept.test),
            read=partial(read, name=_name),
            views=moves(_kept.crop, _kept.flip),
            files=(f"{_name}.npz", _kept.files),
        )
    )
