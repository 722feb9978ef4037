"""Distillation of singular vectors: Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value
Decomposition" (ECCV 2018, arXiv 1807.06819)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, consecutive, widened
from kdbench.methods.method import METHODS, Batch, Facts

CANDIDATES = 4  # vectors of the student among which the teacher's first finds its like


def singular_vectors(feature: Tensor, count: int) -> Tensor:
    """The first right singular vectors of every image's positions × channels matrix A, as rows; their signs are open.

    With M = AᵀA, its eigenvalues λ and eigenvectors v, to first order dv_i = Σ_{j≠i} v_j v_jᵀ dM v_i / (λ_i − λ_j).
    That is the gradient here, with gaps kept off zero: a derivative taken through the decomposition itself is not a
    number as soon as two singular values agree, as they do at zero where channels are dead.
    """
    matrix = feature.flatten(2).mT
    with torch.no_grad():
        _, values, basis = torch.linalg.svd(matrix, full_matrices=False)
    energy, vectors = values.square(), basis[:, :count]

    product = (matrix.mT @ (matrix @ vectors.mT)).mT
    change = product - product.detach()  # dM v_i: zero, and has a gradient
    within = change @ basis.mT
    mine, floor = energy[:, :count, None], torch.finfo(energy.dtype).eps * energy[:, :1, None].square()

    def inverse(gap: Tensor) -> Tensor:
        return gap / (gap.square() + floor).clamp(min=torch.finfo(gap.dtype).tiny)

    outside = (change - within @ basis) * inverse(mine)  # the other eigenvalues are zero
    return vectors + (within * inverse(mine - energy[:, None])) @ basis + outside


def first_vectors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's first vector, and the student's that is most like it, pointing the same way; (B, 1, C) each."""
    theirs = singular_vectors(teacher, 1)
    theirs = torch.where(theirs.sum(2, keepdim=True) < 0, -theirs, theirs)
    candidates = singular_vectors(student, CANDIDATES)
    cosine = (candidates @ theirs.mT).detach()
    best = cosine.abs().argmax(1, keepdim=True)
    return candidates.take_along_dim(best, 1) * cosine.take_along_dim(best, 1).sign(), theirs


def correlation(shallow: Tensor, deep: Tensor) -> Tensor:
    """A radial basis function of the difference between every component of one vector and every one of the other."""
    return torch.exp(-(shallow.mT - deep).square() / 8)


def singular_distance(maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Between correlations of consecutive stages: squared, summed over components and stages, the mean over images."""
    vectors = [first_vectors(student, teacher) for student, teacher in maps]
    distances = [
        (correlation(mine, next_mine) - correlation(theirs, next_theirs)).square().sum() / len(mine)
        for (mine, theirs), (next_mine, next_theirs) in pairwise(vectors)
    ]
    return torch.stack(distances).sum()


@METHODS.register("kdsvd")
class SingularVectorDistillation(Stagewise):
    """How the directions that say most about a feature map change from one stage to the next.

    A map is compressed to its first right singular vectors (k = 1 here, as in the field's reference codebases: the
    singular values cancel then). The student's counterpart is the one of its first four that is most like the
    teacher's, turned to its side. L = ce_weight · CE + weight · Σ_(l, l+1) ‖exp(−(v_l,i − v_l+1,j)²/8), student's less
    teacher's‖²_F, the mean over images.

    Ours: stages answer to each other by resolution, not by number (`aligned`): of a VGG's, the first takes part, and of
    the last two the last alone. A teacher's vector points to where the sum of its components is positive: a
    decomposition leaves the sign open, and the loss depends on it. The paper needs equal widths; a student's map of
    another width is brought to the teacher's by a learned 1×1 convolution first. The gradient is that of perturbation
    theory, safe where singular values agree. On a GPU torch's decomposition waits for the device at every step.
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

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        maps = self.maps(student, teacher)
        wide = [(widen(mine), theirs) for widen, (mine, theirs) in zip(self.widen, maps, strict=True)]
        return {"singular": self.weight * singular_distance(wide)}
