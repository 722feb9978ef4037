"""Distillation of singular vectors: Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value
Decomposition" (ECCV 2018, arXiv 1807.06819)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, consecutive, widened
from kdbench.methods.method import METHODS, Batch, Facts, Needs

CANDIDATES = 4  # student vectors, of which the one most similar to the teacher's first is used


def singular_vectors(feature: Tensor, count: int) -> Tensor:
    """The first right singular vectors of every image's positions × channels matrix A, as rows; their signs are open.

    With M = AᵀA, its eigenvalues λ and eigenvectors v, to first order dv_i = Σ_{j≠i} v_j v_jᵀ dM v_i / (λ_i − λ_j).
    This is the gradient here, with gaps kept away from zero. A derivative through the decomposition itself is NaN as
    soon as two singular values are equal, as they are at zero where channels are dead.
    """
    matrix = feature.flatten(2).mT
    with torch.no_grad():
        _, values, basis = torch.linalg.svd(matrix, full_matrices=False)
    energy, vectors = values.square(), basis[:, :count]

    product = (matrix.mT @ (matrix @ vectors.mT)).mT
    change = product - product.detach()  # dM v_i: its value is zero, its gradient is not
    within = change @ basis.mT
    mine, floor = energy[:, :count, None], torch.finfo(energy.dtype).eps * energy[:, :1, None].square()

    def inverse(gap: Tensor) -> Tensor:
        return gap / (gap.square() + floor).clamp(min=torch.finfo(gap.dtype).tiny)

    outside = (change - within @ basis) * inverse(mine)  # the other eigenvalues are zero
    return vectors + (within * inverse(mine - energy[:, None])) @ basis + outside


def first_vectors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The student's vector most similar to the teacher's first, pointing the same way, and the teacher's; (B, 1, C)
    each."""
    theirs = singular_vectors(teacher, 1)
    theirs = torch.where(theirs.sum(2, keepdim=True) < 0, -theirs, theirs)
    candidates = singular_vectors(student, CANDIDATES)
    cosine = (candidates @ theirs.mT).detach()
    best = cosine.abs().argmax(1, keepdim=True)
    return candidates.take_along_dim(best, 1) * cosine.take_along_dim(best, 1).sign(), theirs


def correlation(shallow: Tensor, deep: Tensor) -> Tensor:
    """A radial basis function of the difference between every component of one vector and every component of the
    other."""
    return torch.exp(-(shallow.mT - deep).square() / 8)


def singular_distance(maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The squared distance between correlations of consecutive stages, summed over components and stages.

    It is the mean over images.
    """
    vectors = [first_vectors(student, teacher) for student, teacher in maps]
    distances = [
        (correlation(mine, next_mine) - correlation(theirs, next_theirs)).square().sum() / len(mine)
        for (mine, theirs), (next_mine, next_theirs) in pairwise(vectors)
    ]
    return torch.stack(distances).sum()


@METHODS.register("kdsvd")
class SingularVectorDistillation(Stagewise):
    """Matches how the most important directions of a feature map change from one stage to the next.

        L = ce_weight · CE + weight · Σ_(l, l+1) ‖exp(−(v_l,i − v_l+1,j)²/8), student's less teacher's‖²_F

    The term is the mean over images. A map is compressed to its first right singular vectors v. Here k = 1, as in the
    field's reference codebases: the singular values cancel then. The student's counterpart is the one of its first four
    that is most similar to the teacher's, turned to point the same way.

    Choices of ours:

    - Stages are paired by resolution, not by number (`aligned`). Of a VGG's stages, the first takes part, and of the
      last two only the last.
    - A teacher's vector points to where the sum of its components is positive. A decomposition leaves the sign open,
      and the loss depends on it.
    - The paper needs equal widths. Here a learned 1×1 convolution first brings a student's map of another width to the
      teacher's width.
    - The gradient is that of perturbation theory, which is safe where singular values are equal.

    On a GPU, torch's decomposition waits for the device at every step.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, consecutive("kdsvd", student, teacher), ce_weight=ce_weight)
        self.weight = weight
        self.widen = nn.ModuleList(widened(source, target) for source, target in self.forms)

    def needs(self) -> Needs:
        return replace(super().needs(), compilable=False)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        maps = self.maps(student, teacher)
        wide = [(widen(mine), theirs) for widen, (mine, theirs) in zip(self.widen, maps, strict=True)]
        return {"singular": self.weight * singular_distance(wide)}
