"""A teacher's answers to the training set, before the first step."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Facts


def survey(teacher: Chain, facts: Facts, rows: Tensor, taps: Collection[int] = ()) -> Iterator[Trace]:
    """Traces of the training images at ``rows``, in this order, batch by batch; the images are not augmented."""
    training = teacher.training
    teacher.eval()
    try:
        for images in facts.images(rows):
            with torch.no_grad():
                trace = teacher.trace(images, taps)
            yield trace
    finally:
        teacher.train(training)
