"""scikit-learn's handwritten digits: real data without a download, in a regime where methods can differ."""

from pathlib import Path

import torch

from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split, moves

CROP = 1
TRAIN = 300  # few enough for a tiny student to learn something from its teacher


def read(folder: Path) -> Dataset:
    """The training set is 300 images, drawn with a fixed seed; the test set is the other 1,497."""
    from sklearn.datasets import load_digits  # takes a second; only needed to read data

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)[order]
    labels = torch.from_numpy(digits.target).long()[order]
    return Dataset(
        train=Split(images[:TRAIN], labels[:TRAIN]),
        test=Split(images[TRAIN:], labels[TRAIN:]),
        mean=(0.3048,),
        std=(0.3760,),
        crop=CROP,
        flip=False,
    )


DATASETS.register("digits")(
    Source(classes=10, image=(1, 8, 8), train=TRAIN, test=1797 - TRAIN, read=read, views=moves(CROP, flip=False))
)
