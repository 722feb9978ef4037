"""One step's forward pass, the only part that data parallelism and compilation wrap."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdbench.methods.chain import UNASKED, UNASKED_LABELS, Chain, Trace
from kdbench.methods.method import Batch, Method, Needs


class Step(nn.Module):
    """The student's forward pass, the method's losses and cross-entropy.

    If the teacher has fewer classes than the student (the incremental setting), ``shared`` is their number. The method
    then sees only these logits of the student.
    """

    def __init__(self, student: Chain, method: Method, shared: int | None = None) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.shared = shared

    def forward(self, batch: Batch, teacher: Trace, task: bool = True, sizes: Sequence[int] = ()) -> dict[str, Tensor]:
        """The loss terms of a batch.

        ``sizes`` are the numbers of images per rank, if there are several ranks. The mean over ranks of a term, and of
        its gradient, is that of the whole batch.
        """
        needs = self.method.needs()
        with twice_differentiable() if needs.input_grad else nullcontext():
            views = tuple(self.student.trace(images, needs.student, needs.cut) for images in batch.views)
        student = replace(views[0], views=views)

        seen = student if self.shared is None else student.narrowed(self.shared)
        if needs.whole_batch and sizes:
            shown = only(needs, whole_batch(batch, sizes))
            terms = scalars(self.method.losses(whole(seen, sizes), whole(teacher, sizes), shown))
        else:
            terms = weighted(scalars(self.method.losses(seen, teacher, only(needs, batch))), sizes)
        if task:
            terms = terms | weighted({"task": self.method.ce_weight * batch.task(student.logits)}, sizes)
        return terms


def only(needs: Needs, batch: Batch) -> Batch:
    """The batch without labels, unless the method says that it reads them: where classes arrive task by task, the
    teacher knows none of the new ones."""
    return batch if needs.labels else replace(batch, labels=UNASKED_LABELS)


def scalars(terms: Any) -> dict[str, Tensor]:
    """Check the result of losses() and return it."""
    if not isinstance(terms, dict):
        raise TypeError(f"losses() must return a dict of named tensors, got a {type(terms).__name__}")
    if "task" in terms:
        raise TypeError("losses() must not name a term 'task', which is the name of cross-entropy")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"the shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"a {type(term).__name__}"
            raise TypeError(f"losses()['{name}'] must be a scalar tensor, got {got}")
    if terms and torch.is_grad_enabled() and not any(term.requires_grad for term in terms.values()):
        raise TypeError(
            "losses() must return a term that has a gradient, got none: the student would learn nothing from it"
        )
    return terms


def twice_differentiable() -> AbstractContextManager[None]:
    """Avoid torch's fused attention kernels, which can be differentiated only once."""
    return sdpa_kernel(SDPBackend.MATH)


def weighted(terms: dict[str, Tensor], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Weight the means over a rank's own images: their mean over ranks is then the mean over all images."""
    if len(set(sizes)) < 2:  # a single rank, or equal shares
        return terms
    share = len(sizes) * sizes[dist.get_rank()] / sum(sizes)
    return {name: share * term for name, term in terms.items()}


def whole(trace: Trace, sizes: Sequence[int]) -> Trace:
    """The trace of all ranks' images.

    Gradients flow back to the rank that has the image, once from each rank's loss. Data parallelism takes their mean
    over ranks, which is the gradient of the loss over the whole batch.
    """
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
        # All ranks must send the same size.
        parcel = F.pad(value, [0, 0] * (value.ndim - 1) + [0, max(sizes) - len(value)]).contiguous()
        parcels = [torch.empty_like(parcel) for _ in sizes]
        dist.all_gather(parcels, parcel)
        return torch.cat([rows[:size] for rows, size in zip(parcels, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)  # the tensor may be in use elsewhere
        dist.all_reduce(gradient)
        mine = gradient.split(ctx.sizes)[dist.get_rank()]
        return F.pad(mine, [0, 0] * (mine.ndim - 1) + [0, ctx.rows - len(mine)]), None
