"""Tiny-ImageNet: 200 classes at 64 pixels; its folder is decoded once and packed into a file beside it."""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from kdbench.benchmark.data import packed
from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split, moves, source
from kdbench.refusal import Refusal

NAME, FOLDER, SIDE, CROP = "tiny-imagenet", "tiny-imagenet-200", 64, 8
ADVICE = f"unpack tiny-imagenet-200.zip again (cs231n.stanford.edu/{FOLDER}.zip)"

Labelled = list[tuple[Path, int]]


def read(folder: Path) -> Dataset:
    file = folder / f"{NAME}.npz"
    train, test = packed.unpack(file) if file.exists() else _decoded(folder, file)
    # The crop and the flip are our choice: the papers that use this data set do not agree.
    return Dataset(train, test, mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821), crop=CROP, flip=True)


def _decoded(folder: Path, file: Path) -> tuple[Split, Split]:
    root = folder / FOLDER
    if not root.is_dir():
        raise Refusal(
            f"{NAME}: found neither {file.name} nor {FOLDER}/ in {folder}, and it is not downloaded automatically;"
            f" unpack cs231n.stanford.edu/{FOLDER}.zip there, or name the folder with --data"
        )
    known = source(NAME)
    try:
        classes = {wnid: label for label, wnid in enumerate((root / "wnids.txt").read_text().split())}
        parts = (("training", _train(root, classes), known.train), ("test", _test(root, classes), known.test))
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"{NAME}: {root} is incomplete or damaged ({error}); {ADVICE}") from None
    for part, files, images in parts:
        if len(files) != images:
            raise Refusal(f"{NAME}: {root} must hold {images} {part} images, got {len(files)}; {ADVICE}")
    train, test = (_split(files, part) for part, files, _ in parts)
    try:
        packed.pack(train, test, file)
    except OSError as error:
        warnings.warn(f"{NAME} could not be saved as {file} and is decoded again each time: {error}", stacklevel=2)
    return train, test


def _train(root: Path, classes: dict[str, int]) -> Labelled:
    return [
        (image, label) for wnid, label in classes.items() for image in sorted((root / "train" / wnid).glob("images/*"))
    ]


def _test(root: Path, classes: dict[str, int]) -> Labelled:
    """The validation images, in one folder beside a list of their classes; the images in ``test`` have no labels."""
    rows = [line.split("\t")[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    return [(root / "val" / "images" / name, classes[wnid]) for name, wnid in rows]


def _split(files: Labelled, part: str) -> Split:
    images = np.empty((len(files), 3, SIDE, SIDE), np.uint8)
    shown = track(files, f"decoding {NAME}, {part}", console=Console(stderr=True), disable=not sys.stderr.isatty())
    for row, (file, _) in enumerate(shown):
        try:
            with Image.open(file) as image:
                images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)  # some are greyscale
        except (OSError, SyntaxError, ValueError) as error:  # missing, damaged or of the wrong size
            raise Refusal(f"{NAME}: {file} must be an image of {SIDE}x{SIDE} pixels ({error}); {ADVICE}") from None
    return Split(torch.from_numpy(images), torch.tensor([label for _, label in files]))


FILES = (f"{NAME}.npz", FOLDER)
DATASETS.register(NAME)(Source(200, (3, SIDE, SIDE), 100_000, 10_000, read, moves(CROP, flip=True), FILES))
