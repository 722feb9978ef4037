"""One step's forward pass: the only thing that data parallelism and compilation wrap."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
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

    def forward(self, batch: Batch, teacher: Trace, task: bool = True, sizes: Sequence[int] = ()) -> dict[str, Tensor]:
        """``sizes``: how many of the step's images each rank has, where there are several. The mean over ranks of a
        term, and of its gradient, is that of the whole batch."""
        needs = self.method.needs()
        with twice_differentiable() if needs.input_grad else nullcontext():
            views = tuple(self.student.trace(images, needs.student, needs.cut) for images in batch.views)
        student = replace(views[0], views=views)

        seen = student if self.shared is None else student.narrowed(self.shared)
        if needs.whole_batch and sizes:
            terms = scalars(self.method.losses(whole(seen, sizes), whole(teacher, sizes), whole_batch(batch, sizes)))
        else:
            terms = weighted(scalars(self.method.losses(seen, teacher, batch)), sizes)
        if task:
            terms = terms | weighted({"task": self.method.ce_weight * batch.task(student.logits)}, sizes)
        return terms


def scalars(terms: Any) -> dict[str, Tensor]:
    """What losses() answered, if it is what it must be."""
    if not isinstance(terms, dict):
        raise TypeError(f"losses() must answer with a dict of named tensors, got a {type(terms).__name__}")
    if "task" in terms:
        raise TypeError("losses() must give its terms other names than 'task', which is cross-entropy's")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"the shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"a {type(term).__name__}"
            raise TypeError(f"losses()['{name}'] must be a tensor of a single number, got {got}")
    if terms and torch.is_grad_enabled() and not any(term.requires_grad for term in terms.values()):
        raise TypeError(
            "losses() must answer with a term that has a gradient, got none: nothing would be learned by it"
        )
    return terms


def twice_differentiable() -> AbstractContextManager[None]:
    """torch's fused attention kernels can be differentiated only once."""
    return sdpa_kernel(SDPBackend.MATH)


def weighted(terms: dict[str, Tensor], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Means over a rank's own images, so that their mean over ranks is that over all images."""
    if len(set(sizes)) < 2:  # alone, or all ranks have the same number
        return terms
    share = len(sizes) * sizes[dist.get_rank()] / sum(sizes)
    return {name: share * term for name, term in terms.items()}


def whole(trace: Trace, sizes: Sequence[int]) -> Trace:
    """The trace of all ranks' images. Gradients flow back to the rank that an image belongs to, once from each rank's
    loss: the mean over ranks, which data parallelism takes, is the gradient of the loss over the whole batch."""
    views = tuple(_whole(view, sizes) for view in trace.views or (trace,))
    return replace(views[0], views=views if trace.views else ())


def _whole(view: Trace, sizes: Sequence[int]) -> Trace:
    return Trace(
        logits=gathered(view.logits, sizes),
        embedding=UNASKED if view.embedding is UNASKED else gathered(view.embedding, sizes),
        features={depth: gathered(feature, sizes) for depth, feature in view.features.items()},
    )


def whole_batch(batch: Batch, sizes: Sequence[int]) -> Batch:
    views = tuple(gathered(view, sizes) for view in batch.views)
    return replace(batch, views=views, labels=gathered(batch.labels, sizes), index=gathered(batch.index, sizes))


def gathered(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all ranks, in the order of the whole batch."""
    gathered: Tensor = Gather.apply(value, sizes)
    return gathered


class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.rows = sizes, len(value)
        # Parcels travel in one size.
        parcel = F.pad(value, [0, 0] * (value.ndim - 1) + [0, max(sizes) - len(value)]).contiguous()
        parcels = [torch.empty_like(parcel) for _ in sizes]
        dist.all_gather(parcels, parcel)
        return torch.cat([rows[:size] for rows, size in zip(parcels, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)  # others may hold this very tensor
        dist.all_reduce(gradient)
        mine = gradient.split(ctx.sizes)[dist.get_rank()]
        return F.pad(mine, [0, 0] * (mine.ndim - 1) + [0, ctx.rows - len(mine)]), None
