"""Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021, arXiv 2104.09044)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.batch_norm import BatchNorm
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.preactivation import linear
from kdbench.methods.features.stages import Stagewise
from kdbench.methods.forms import averaged, resized
from kdbench.methods.method import METHODS, Batch, Facts

Size = tuple[int, int]
WIDEST = 512  # most channels in which levels are fused
POOLED = (4, 2, 1)  # the sizes at which the hierarchical loss compares again


@METHODS.register("reviewkd")
class ReviewKD(Stagewise):
    """The student's level and all deeper ones together learn each of the teacher's levels.

        L = ce_weight · CE + weight · min(epoch/warmup, 1) · Σ_levels HCL(fused_s, F_t)

    From deep to shallow, attention-based fusion (ABF) joins a level with the output of the deeper one. The hierarchical
    context loss (HCL) compares the result with the teacher's level at several sizes. Levels are the aligned stages, the
    teacher's before their activation, and, as the deepest, the embedding. Warm-up and widths are those of the reference
    code. The authors' own code counts epochs from 0, so its first epoch has no such term. It sets the weight for each
    pair, from 0.6 (resnet56 to resnet20) to 8 (resnet32x4 to ShuffleV2), and most often to 5.

    Choices of ours:

    - Stages are paired by resolution, not by number (`aligned`). So a VGG's levels, deepest first, are the embedding
      and its maps of 4, 8, 16 and 32 pixels. The reference code has two of 4 and none of 32.
    - The teacher is in evaluation mode, as in mdistiller. The authors' own code leaves it in training mode.
    - A map that must shrink on its way is averaged.
    - Tokens are placed on their grid, without the class token.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 5.0,
        warmup: int = 20,
        ce_weight: float = 1.0,
    ) -> None:
        stages = [(mine, linear(teacher, theirs)) for mine, theirs in reversed(aligned(student, teacher))]
        levels = [(len(student) - 1, len(teacher) - 1), *stages]
        super().__init__(student, teacher, facts, levels, ce_weight=ce_weight)
        self.weight = weight
        self.warmup = warmup
        middle = min(WIDEST, student.embedding_width)
        self.fusions = nn.ModuleList(
            Fusion(mine.channels, middle, theirs.channels, fuses=level > 0)
            for level, (mine, theirs) in enumerate(self.forms)
        )

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        total, handed = student.logits.new_zeros(()), None
        for fusion, (mine, target) in zip(self.fusions, self.maps(student, teacher), strict=True):
            fused, handed = fusion(mine, handed, tuple(target.shape[2:]))
            total = total + hierarchical(fused, target)
        return {"reviewkd": self.weight * batch.warmed(self.warmup) * total}


class Fusion(nn.Module):
    """Attention-based fusion: two maps weight each other, position by position."""

    def __init__(self, width_in: int, middle: int, width: int, *, fuses: bool) -> None:
        super().__init__()
        self.conv1 = _convolution(width_in, middle, 1)
        self.conv2 = _convolution(middle, width, 3)
        self.attention = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, own: Tensor, handed: Tensor | None, size: Size) -> tuple[Tensor, Tensor]:
        """The fused map, as wide and large as the teacher's, and the map that the next level receives."""
        own = self.conv1(own)
        if self.attention is not None and handed is not None:
            handed = resized(handed, (own.shape[2], own.shape[3]))
            mine, theirs = self.attention(torch.cat([own, handed], 1)).split(1, 1)
            own = own * mine + handed * theirs
        own = resized(own, size)
        return self.conv2(own), own


def _convolution(width_in: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, BatchNorm(width))


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """The weighted mean of squared errors at several sizes.

    The full size has weight 1. Each smaller size, to which both maps are pooled, has half the weight of the one before.
    """
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for size in POOLED:
        if size < student.shape[2]:
            weight, weights = weight / 2, weights + weight / 2
            total = total + weight * F.mse_loss(averaged(student, (size, size)), averaged(teacher, (size, size)))
    return total / weights
