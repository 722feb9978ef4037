"""A frozen teacher's answers to the images that a student sees."""

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
    """A teacher as the loop sees it: it returns a trace of a batch's views, and never changes."""

    def __call__(self, batch: Batch) -> Trace: ...


class LiveTeacher:
    """A teacher that runs at every step."""

    def __init__(self, chain: Chain, needs: Needs) -> None:
        self.chain = frozen(chain)
        self.needs = needs

    def __call__(self, batch: Batch) -> Trace:
        several = len(batch.images) > 1  # a single image's map may be one pixel, which has no statistics
        manner = batch_statistics(self.chain) if self.needs.teacher_train and several else nullcontext()
        with torch.set_grad_enabled(self.needs.input_grad), manner:
            views = tuple(self.chain.trace(images, self.needs.teacher) for images in batch.views)
        if not self.needs.teacher_embedding:  # the memory leaves it out too: a method gets the same from both
            views = tuple(replace(view, embedding=UNASKED) for view in views)
        return replace(views[0], views=views)


class NoTeacher:
    """A placeholder for methods without a teacher."""

    def __call__(self, batch: Batch) -> Trace:
        nothing: Tensor = batch.labels.new_empty(0)
        return Trace(nothing, nothing)


def frozen(chain: Chain) -> Chain:
    return chain.eval().requires_grad_(False)


@contextmanager
def batch_statistics(chain: Chain) -> Iterator[None]:
    """Normalise with each batch's statistics, as in training, without updating the running statistics."""
    norms = [module for module in chain.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True
