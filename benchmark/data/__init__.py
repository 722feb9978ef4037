"""Data sets as tensors on the network's device, and the batches that a training run sees."""

from kdbench.benchmark.data import digits, files, tiny_imagenet, torchvisions  # noqa: F401  (the imports register the names)
from kdbench.benchmark.data.dataset import DATASETS, Dataset, Source, Split, load, source

__all__ = ["DATASETS", "Dataset", "Source", "Split", "load", "source"]
