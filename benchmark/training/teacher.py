"""A frozen teacher's answers to what a student sees."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.methods.chain import UNASKED, Chain, Trace
from kdbench.methods.method import Batch, Needs


class Answers(Protocol):
    """A teacher as the loop sees it: a trace of a batch's views; nothing of the teacher ever changes."""

    def __call__(self, batch: Batch) -> Trace: ...


class LiveTeacher:
    """Asked anew at every step."""

    def __init__(self, chain: Chain, needs: Needs) -> None:
        self.chain = frozen(chain)
        self.needs = needs

    def __call__(self, batch: Batch) -> Trace:
        several = len(batch.images) > 1  # a single image's map may be one pixel, which has no statistics
        manner = batch_statistics(self.chain) if self.needs.teacher_train and several else nullcontext()
        with torch.set_grad_enabled(self.needs.input_grad), manner:
            views = tuple(self.chain.trace(images, self.needs.teacher) for images in batch.views)
        if not self.needs.teacher_embedding:  # it is not remembered either: a method hears the same of both
            views = tuple(replace(view, embedding=UNASKED) for view in views)
        return replace(views[0], views=views)


class NoTeacher:
    """Stands where a teacher would, for methods that have none."""

    def __call__(self, batch: Batch) -> Trace:
        nothing: Tensor = batch.labels.new_empty(0)
        return Trace(nothing, nothing)


def frozen(chain: Chain) -> Chain:
    return chain.eval().requires_grad_(False)


@contextmanager
def batch_statistics(chain: Chain) -> Iterator[None]:
    """Normalise with each batch's own statistics, as in training, and let the running ones rest."""
    norms = [module for module in chain.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True
