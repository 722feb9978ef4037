"""KL(p_t ‖ p_s) to second order around the teacher's representation z: ½ dᵀ F d, with d = z_s − z_t.

F is the Fisher information of the teacher's prediction p about z, F = E_{y~p}[∇log p(y) ∇log p(y)ᵀ]. Sources of
knowledge differ in what z is and in how much of F they keep: all of it, its diagonal W, or nothing (W = 1).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# -- the form: summed over coordinates, the mean over samples ---------------------------------------------------------


def half_square(difference: Tensor, weighted: Tensor) -> Tensor:
    """½ dᵀ(F d), from the difference d and from F d."""
    return (difference * weighted).flatten(1).sum(1).mean() / 2


def diagonal_form(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """½ Σ_k W_k (z_s,k − z_t,k)²."""
    difference = student - teacher
    return half_square(difference, weights * difference)


def matrix_form(student: Tensor, teacher: Tensor, matrix: Tensor) -> Tensor:
    """½ dᵀ M d with one symmetric matrix M for all samples."""
    difference = student - teacher
    return half_square(difference, difference @ matrix)


def classifier_form(student: Tensor, teacher: Tensor, classifier: Tensor) -> Tensor:
    """½ dᵀ AᵀA d = ½ ‖A d‖²."""
    answer = (student - teacher) @ classifier.T
    return half_square(answer, answer)


def logits_form(student: Tensor, teacher: Tensor, p: Tensor) -> Tensor:
    """½ dᵀ(diag p − p pᵀ) d: half the variance of d under p, which no shift of a sample's logits changes."""
    difference = student - teacher
    return half_square(difference, p * (difference - (p * difference).sum(1, keepdim=True)))


def mean_trace(diagonal: Tensor) -> Tensor:
    """The batch mean of the trace of F; a form divided by it is a weighted mean over coordinates, for any teacher."""
    # For a teacher certain of every image only rounding is left. It must vanish, not be amplified, and not give 0/0.
    return diagonal.flatten(1).sum(1).mean().clamp(min=torch.finfo(diagonal.dtype).eps)


# -- the Fisher information in closed form ----------------------------------------------------------------------------


def logits_diagonal(p: Tensor) -> Tensor:
    """diag(diag p − p pᵀ)."""
    return p * (1 - p)


def classifier_diagonal(p: Tensor, classifier: Tensor) -> Tensor:
    """diag(Aᵀ(diag p − p pᵀ)A): for each coordinate of the embedding, the variance under p of its column of A.

    Variances do not depend on the origin. Here each sample's origin is the row of its most likely class: for a
    confident teacher, the difference of two large sums would be only rounding.
    """
    likeliest = p.argmax(1)
    others = p.scatter(1, likeliest[:, None], 0)
    rest, origin = others.sum(1, keepdim=True), classifier[likeliest]
    first = others @ classifier
    mean = first - rest * origin
    mean_square = others @ classifier.square() - 2 * origin * first + rest * origin.square()
    return mean_square - mean.square()


def prediction_information(p: Tensor) -> Tensor:
    """Σ over samples of diag p − p pᵀ."""
    return p.sum(0).diag() - p.T @ p


# -- the Fisher information by differentiation ------------------------------------------------------------------------


@torch.enable_grad()
def tail_diagonal(tail: Callable[[Tensor], Tensor], feature: Tensor, samples: int, generator: Generator) -> Tensor:
    """diag F at any depth, through the rest of the network: E_{y~p}[(∂log p(y)/∂z)²].

    With ``samples=0`` the value is exact: one backward pass for each class. Otherwise it is the mean over ``samples``
    draws of signs ε of (∂/∂z Σ_y ε_y √p(y) log p(y))², where the products of different classes cancel in the mean.
    Draws of y ~ p would be unbiased too, but for a confident teacher nearly all of them are the class that carries no
    information. A network in evaluation mode treats each image separately: the gradient of their sum is each image's
    own gradient.
    """
    feature = feature.detach().requires_grad_()
    log_p = F.log_softmax(tail(feature), dim=1)
    p = log_p.detach().exp()

    def squared_gradient(weights: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad((weights * log_p).sum(), feature, retain_graph=True)
        return gradient.square()

    if samples > 0:
        signs = (torch.empty_like(p).bernoulli_(0.5, generator=generator) * 2 - 1 for _ in range(samples))
        return torch.stack([squared_gradient(sign * p.sqrt()) for sign in signs]).mean(0)
    classes = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return torch.stack([squared_gradient(one * p.sqrt()) for one in classes]).sum(0)
