"""A data set in one file: <name>.npz with x_train, y_train, x_test and y_test, with images as uint8 (N, C, H, W)."""

from pathlib import Path

import numpy as np
import torch

from kdbench.benchmark.data.dataset import Split
from kdbench.benchmark.whole import written
from kdbench.refusal import Refusal


def unpack(file: Path) -> tuple[Split, Split]:
    try:
        with np.load(file) as arrays:
            parts = [torch.from_numpy(arrays[key]) for key in ("x_train", "y_train", "x_test", "y_test")]
    except Exception as error:  # a damaged file raises errors of zipfile, zlib, NumPy or torch
        reason = str(error).partition("\n")[0]
        raise Refusal(f"{file} must be an .npz with x_train, y_train, x_test and y_test: {reason}") from None
    return Split(parts[0], parts[1].long()), Split(parts[2], parts[3].long())


def pack(train: Split, test: Split, file: Path) -> None:
    """Write the file atomically: no other process ever sees half of it, not even after a crash."""
    with written(file) as out:
        np.savez(
            out,
            x_train=train.images.numpy(),
            y_train=train.labels.numpy(),
            x_test=test.images.numpy(),
            y_test=test.labels.numpy(),
        )
