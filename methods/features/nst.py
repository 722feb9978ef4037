"""Neuron selectivity transfer: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer"
(2017, arXiv 1707.01219)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size, spatial
from kdbench.methods.method import METHODS, Batch, Facts


def mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    """The mean over images and pairs of rows of k(x, y) = (xᵀy)²; (B, N, positions) each.

    Σ_ij (x_iᵀy_j)² is also the inner product of Σ_i x_i x_iᵀ and Σ_j y_j y_jᵀ. Where there are fewer positions than
    channels, these matrices are much smaller.
    """
    images, positions = len(one), one.shape[2]
    if positions < min(one.shape[1], other.shape[1]):
        return ((one.mT @ one) * (other.mT @ other)).sum() / (images * one.shape[1] * other.shape[1])
    return (one @ other.mT).square().mean()


def selectivity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD between the two networks' channels, each a unit vector over the positions of an image."""
    student, teacher = (F.normalize(feature.flatten(2), dim=2) for feature in at_one_size(student, teacher))
    return mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


@METHODS.register("nst")
class NeuronSelectivityTransfer(Stagewise):
    """The student's channels are distributed over the image in the same way as the teacher's.

        L = ce_weight · CE + weight · Σ_stages MMD²(student's patterns, teacher's patterns)

    A channel's activations over all positions, divided by their L2 norm, are one sample of a neuron's selectivity
    pattern. The MMD is per image, with the paper's polynomial kernel k(x, y) = (xᵀy + c)^d, d = 2, c = 0. Networks of
    any two widths can be compared.

    The teacher's own term is constant and included, as in the field's code. The paper uses only the last stage, with
    weight λ/2. All stages and the weight of 50 are those of the field's reference codebases.

    Choices of ours:

    - Stages are paired by resolution, not by number (`aligned`).
    - Stages of one position are left out.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 50.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, spatial("nst", student, teacher), ce_weight=ce_weight)
        self.weight = weight

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        distances = [selectivity_distance(mine, theirs) for mine, theirs in self.maps(student, teacher)]
        return {"selectivity": self.weight * torch.stack(distances).sum()}
