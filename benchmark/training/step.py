"""One step's forward pass: the only thing that data parallelism and compilation wrap."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdbench.methods.chain import UNASKED, Chain, Trace
from kdbench.methods.method import Batch, Method


class Step(nn.Module):
    """The student's forward pass and the method's losses, cross-entropy added.

    Where the teacher knows fewer classes than the student (the incremental setting), ``shared`` is their number, and
    the method sees the student's logits for them alone.
    """

    def __init__(self, student: Chain, method: Method, shared: int | None = None) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.shared = shared

    def forward(self, batch: Batch, teacher: Trace, task: bool = True) -> dict[str, Tensor]:
        needs = self.method.needs()
        with twice_differentiable() if needs.input_grad else nullcontext():
            views = tuple(self.student.trace(images, needs.student, needs.cut) for images in batch.views)
        student = replace(views[0], views=views)

        seen = student if self.shared is None else student.narrowed(self.shared)
        if needs.whole_batch and dist.is_initialized():
            terms = self.method.losses(whole(seen), whole(teacher), whole_batch(batch))
        else:
            terms = self.method.losses(seen, teacher, batch)
        if task:
            terms = terms | {"task": self.method.ce_weight * batch.task(student.logits)}
        return terms


def twice_differentiable() -> AbstractContextManager[None]:
    """torch's fused attention kernels can be differentiated only once."""
    return sdpa_kernel(SDPBackend.MATH)


def whole(trace: Trace) -> Trace:
    """The trace of all ranks' images. Gradients flow back to the rank that an image belongs to, once from each rank's
    loss: the mean over ranks, which data parallelism takes, is the gradient of the loss over the whole batch."""
    return Trace(
        logits=gathered(trace.logits),
        embedding=UNASKED if trace.embedding is UNASKED else gathered(trace.embedding),
        features={depth: gathered(feature) for depth, feature in trace.features.items()},
        views=tuple(whole(view) for view in trace.views),
    )


def whole_batch(batch: Batch) -> Batch:
    views = tuple(gathered(view) for view in batch.views)
    return replace(batch, views=views, labels=gathered(batch.labels), index=gathered(batch.index))


def gathered(value: Tensor) -> Tensor:
    return torch.cat(list(all_gather(value)))
