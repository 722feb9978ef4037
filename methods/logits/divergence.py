"""Distances between two sets of logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def softened_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)): summed over classes, averaged over samples."""
    return softened_kl_of_each(student, teacher, temperature).mean()


def softened_kl_of_each(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """The same for each sample, not averaged."""
    p = F.log_softmax(teacher / temperature, dim=1)
    q = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """‖SᵀS − TᵀT‖², squared Frobenius norm: compares the inner products of the columns of each matrix."""
    return (student.T @ student - teacher.T @ teacher).square().sum()


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of all classes except the labelled one: B × (C−1), in the order of the classes."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]))


def silent_where_blank(logits: Tensor) -> Tensor:
    """The same logits, without gradient for a sample whose logits are all equal, as a head that starts from zero has
    them.

    A loss that ignores the scale of the logits has no gradient there. Numerically it has one of a million and more,
    from which an adaptive optimiser does not recover. Only cross-entropy takes the first step then.
    """
    spread = logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)
    return torch.where(spread > 0, logits, logits.detach())
