"""CIFAR-10 and CIFAR-100: from a packed .npz, from torchvision's folders, or downloaded by torchvision."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split
from kdbench.methods.refusal import Refusal

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of CIFAR-100
MEAN_10, STD_10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read(folder: Path, name: str) -> Dataset:
    packed = folder / f"{name}.npz"
    train, test = unpacked(packed) if packed.exists() else torchvisions(folder, name)
    mean, std = (MEAN, STD) if name == "cifar100" else (MEAN_10, STD_10)
    return Dataset(train, test, mean, std, crop=4, flip=True)


def unpacked(file: Path) -> tuple[Split, Split]:
    """x_train, y_train, x_test and y_test, images as (N, 3, 32, 32) bytes."""
    try:
        with np.load(file) as arrays:
            parts = [torch.from_numpy(arrays[key]) for key in ("x_train", "y_train", "x_test", "y_test")]
    except Exception as error:  # what is not whole fails as an error of zipfile's, zlib's, NumPy's or torch's own
        reason = str(error).partition("\n")[0]
        raise Refusal(f"{file} must be an .npz with x_train, y_train, x_test and y_test: {reason}") from None
    return Split(parts[0], parts[1].long()), Split(parts[2], parts[3].long())


def torchvisions(folder: Path, name: str) -> tuple[Split, Split]:
    """Torchvision reads, and downloads and verifies where the files are not there yet."""
    kind = datasets.CIFAR100 if name == "cifar100" else datasets.CIFAR10
    there = (folder / kind.base_folder).is_dir()
    parts = []
    for train in (True, False):
        try:
            part = kind(str(folder), train=train, download=not there)
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            if there:
                raise Refusal(
                    f"{name}: {kind.base_folder}/ in {folder} is not whole ({reason});"
                    " remove it, or name another folder with --data"
                ) from None
            raise Refusal(
                f"{name}: found neither {name}.npz nor {kind.base_folder}/ in {folder}, and could not download it"
                f" ({reason}); put either there, or name the folder with --data"
            ) from None
        parts.append(Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)))
    return parts[0], parts[1]


for _name, _classes in (("cifar100", 100), ("cifar10", 10)):
    DATASETS.register(_name)(Source(_classes, (3, 32, 32), 50_000, 10_000, partial(read, name=_name)))
