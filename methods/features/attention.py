"""Attention transfer: Zagoruyko and Komodakis, "Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer" (ICLR 2017, arXiv 1612.03928)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size, spatial
from kdbench.methods.method import METHODS, Batch, Facts


def attention(feature: Tensor) -> Tensor:
    """Where a network looks: the mean over channels of F², as a unit vector per image."""
    return F.normalize(feature.square().mean(1).flatten(1), dim=1)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = at_one_size(student, teacher)
    return F.mse_loss(attention(student), attention(teacher))


@METHODS.register("at")
class AttentionTransfer(Stagewise):
    """The student's attention maps match the teacher's at every stage.

        L = ce_weight · CE + weight · Σ_stages mean over images and positions of (Q_s/‖Q_s‖₂ − Q_t/‖Q_t‖₂)²

    Q = Σ_c F_c² is the paper's activation-based map for p = 2. It is flattened and divided by its norm, so neither
    widths nor scales matter.

    The paper's text has the distance itself, not squared, with the factor β/2. The weight of 1000 belongs to the mean
    of squares, which the authors' and the field's code compute, and so does this method. The two differ by factors of
    hundreds. A larger map is averaged before it is squared, as in the field's code.

    Choices of ours:

    - Stages are paired by resolution, not by number (`aligned`).
    - Stages of one position, whose attention is always one, are left out.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 1000.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, spatial("at", student, teacher), ce_weight=ce_weight)
        self.weight = weight

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        distances = [attention_distance(mine, theirs) for mine, theirs in self.maps(student, teacher)]
        return {"attention": self.weight * torch.stack(distances).sum()}
