"""Variational information distillation: Ahn, Hu, Damianou, Lawrence and Dai, "Variational Information Distillation for
Knowledge Transfer" (CVPR 2019, arXiv 1904.05835)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size
from kdbench.methods.method import METHODS, Batch, Facts, above

SMALLEST = 1e-5  # the lowest variance


class Gaussian(nn.Module):
    """q(t | s): a normal distribution with the mean μ(s) and one variance for each of the teacher's channels."""

    def __init__(self, width: int, target: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(width, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
        )
        # The number whose softplus is the variance: log(exp(v) − 1), computed without overflow.
        more = variance - SMALLEST
        self.log_scale = nn.Parameter(torch.full((target,), more + math.log(-math.expm1(-more))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """−log q(t | s) without its constant, averaged over all elements."""
        student, teacher = at_one_size(student, teacher)
        variance = (F.softplus(self.log_scale) + SMALLEST)[:, None, None]
        return ((self.mean(student) - teacher).square() / variance + variance.log()).mean() / 2


@METHODS.register("vid")
class VariationalInformationDistillation(Stagewise):
    """Maximises a lower bound of the mutual information between the two networks' features, at every stage.

        I(t; s) ≥ H(t) + E[log q(t | s)]
        L = ce_weight · CE + weight · Σ_stages −log q(t | s)

    q is a normal distribution. Its mean is regressed from the student's map, position by position. For each of the
    teacher's channels, its variance is σ²_c = softplus(α_c) + ε. All of it is trained, the variances too.

    Three 1×1 convolutions with ReLU between them, variances that start at 5, ε = 1e-5, the weight of 1 and the mean
    over elements are those of the field's reference codebases. One of them does not train the variances.

    Choice of ours: stages are paired by resolution, not by number (`aligned`).
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        initial_variance: float = 5.0,
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        above("vid", SMALLEST, initial_variance=initial_variance)
        super().__init__(student, teacher, facts, aligned(student, teacher), ce_weight=ce_weight)
        self.weight = weight
        self.stages = nn.ModuleList(Gaussian(s.channels, t.channels, initial_variance) for s, t in self.forms)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        maps = self.maps(student, teacher)
        terms = [q(mine, theirs) for q, (mine, theirs) in zip(self.stages, maps, strict=True)]
        return {"information": self.weight * torch.stack(terms).sum()}
