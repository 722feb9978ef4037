"""Data sets as tensors where the network is, and the batches that a training run sees."""

from kdbench.benchmark.data import digits, files, tiny_imagenet, torchvisions  # noqa: F401  (their names register themselves)
from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split, load, source

__all__ = ["DATASETS", "Dataset", "Source", "Split", "load", "source"]
