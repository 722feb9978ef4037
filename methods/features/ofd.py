"""Heo et al., "A Comprehensive Overhaul of Feature Distillation" (ICCV 2019, arXiv 1904.01866)."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.preactivation import preactivations
from kdbench.methods.features.stages import Stagewise
from kdbench.methods.forms import Adapter, Form, resized, smaller
from kdbench.methods.method import METHODS, Batch, Facts, Needs
from kdbench.refusal import Refusal


@METHODS.register("ofd")
class OFD(Stagewise):
    """Matches the teacher's features before their activation; a margin cuts off what it would discard.

        L = ce_weight · CE + weight · Σ_i 2^(i−n) · d(connector_i(F_s), max(F_t, m)), i = 1..n from shallow to deep

    d is the partial L2 distance: a student's value is left alone where it is below a teacher's that is not positive,
    because the activation discards both. The margin m of a channel is the mean of its negative values, if they are as
    normally distributed as the teacher's batch norm says. Connectors are 1×1 convolutions with batch norm. The teacher
    normalises with batch statistics. The weights halved towards the image, the sum over channels and positions, and the
    weight are those of the field's reference codebases: the loss grows with the maps.

    Choices of ours:

    - Stages are paired by resolution, not by number (`aligned`). Of a VGG's stages, the first takes part, and of the
      last two only the last.
    - Maps of different sizes are compared at the smaller one's.
    - A teacher without batch norm near its stages is refused. Nothing else says how its values are distributed, and
      none of its values was discarded.
    - If the teacher is an earlier state of the student, there are no connectors. Otherwise they start as torch
      initialises every convolution, where the authors' are drawn by He's rule.
    """

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 0.001, ce_weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, facts, preactivations(student, teacher), ce_weight=ce_weight)
        self.weight = weight
        self.connectors = nn.ModuleList()
        for number, ((_, depth), (mine, theirs)) in enumerate(zip(self.pairs, self.forms, strict=True)):
            norm = teacher.norm_at(depth)
            if norm is None:
                network = type(teacher.network).__name__
                raise Refusal(
                    f"ofd: the teacher's stages must end in batch norms, from which margins are taken, "
                    f"but {network} has none near depth {depth}"
                )
            self.register_buffer(f"margin{number}", margin(norm))
            source, target = replace(mine, kind="map", prefix=0), Form("map", theirs.channels, smaller(mine, theirs))
            adapter = Adapter(source, target, norm=True)
            self.connectors.append(nn.Identity() if facts.continued and mine == theirs else adapter)

    def needs(self) -> Needs:
        return replace(super().needs(), teacher_train=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        total = student.logits.new_zeros(())
        maps = self.maps(student, teacher)
        for number, (connector, (mine, theirs)) in enumerate(zip(self.connectors, maps, strict=True)):
            mine = connector(mine)
            theirs = resized(theirs, tuple(mine.shape[2:]))
            distance = partial_distance(mine, theirs, self.get_buffer(f"margin{number}"))
            total = total + distance / 2 ** (len(self.pairs) - 1 - number)
        return {"ofd": self.weight * total}


def margin(norm: _BatchNorm) -> Tensor:
    """E[x | x < 0] of each channel, for x normal with the norm's shift as mean and its scale as deviation.

    It is three deviations below zero where x is hardly ever negative.
    """
    mean, deviation = norm.bias.detach(), norm.weight.detach().abs()
    ratio = mean / deviation.clamp(min=torch.finfo(mean.dtype).tiny)
    negative = torch.special.ndtr(-ratio)
    density = (-(ratio**2) / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(negative > 0.001, mean - deviation * density / negative, -3 * deviation)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distances to the teacher's values, cut off at the margin; summed over a map, averaged over images."""
    target = torch.maximum(teacher, margin[:, None, None])
    counts = (student > target) | (target > 0)
    return ((student - target) ** 2 * counts).sum((1, 2, 3)).mean()
