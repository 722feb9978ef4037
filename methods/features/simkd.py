"""Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022, arXiv 2203.14001)."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.batch_norm import BatchNorm
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.bottleneck import bottleneck
from kdbench.methods.features.preactivation import RECTIFIERS
from kdbench.methods.forms import Form, as_map, resized, smaller
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs
from kdbench.refusal import Refusal


@METHODS.register("simkd")
class SimKD(Method):
    """The student learns to feed the teacher's classifier.

        L = weight · MSE(P(F_s), F_t)

    There is no other term. The two are compared at the smaller map's size. No labels are used, so ce_weight is 0. P is
    a bottleneck of 1×1, 3×3 and 1×1 convolutions, ``factor`` times narrower than the teacher's map. The shipped network
    is the student's backbone, P, and the teacher's pooling and classifier. F is the last map before the pooling.

    Choices of ours:

    - F is the last map for MobileNetV2 and ShuffleV2 too. The authors' code takes the student's last stage there,
      before its last 1×1 convolution.
    - A network that ends in tokens, or has no map, gives its embedding as a map of one pixel.
    - P ends in batch norm and, only if the teacher's map does too, in a ReLU.
    """

    source = "features"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 1.0,
        factor: int = 2,
        ce_weight: float = 0.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if factor < 1:
            raise Refusal(f"simkd: factor must be at least 1, got {factor}")
        self.weight = weight
        self.mine, self.theirs = last_map(student), last_map(teacher)
        source, target = student.form(self.mine), teacher.form(self.theirs)
        self.project = Projector(source, target, factor, rectified(teacher, self.theirs))

    def needs(self) -> Needs:
        return Needs(student=frozenset({self.mine}), teacher=frozenset({self.theirs}))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        target = as_map(teacher[self.theirs], self.project.target)
        mine = self.project.compared(student[self.mine])
        return {"simkd": self.weight * F.mse_loss(mine, resized(target, self.project.size))}

    def deployed(self, student: Chain) -> Chain:
        """The student's backbone, the projector, and the teacher's links behind its last map."""
        links = nn.Sequential(*student.links[: self.mine], self.project, *self.teacher.links[self.theirs :])
        shipped = Chain(links, links, stages=(), image=student.image)
        shipped.precision = student.precision
        return shipped


class Projector(nn.Module):
    """From the student's last map to one that replaces the teacher's."""

    def __init__(self, source: Form, target: Form, factor: int, positive: bool) -> None:
        super().__init__()
        self.source, self.target, self.size = source, target, smaller(source, target)
        self.convolutions = bottleneck(source.channels, max(1, target.channels // factor), target.channels)
        self.norm = BatchNorm(target.channels)
        self.end = nn.ReLU() if positive else nn.Identity()

    def compared(self, value: Tensor) -> Tensor:
        """The projected map, at the size at which the two are compared."""
        grid: Tensor = self.convolutions(resized(as_map(value, self.source), self.size))
        end: Tensor = self.end(self.norm(grid))
        return end

    def forward(self, value: Tensor) -> Tensor:
        grid = resized(self.compared(value), self.target.size)
        return grid if self.target.kind == "map" else grid.flatten(1)


def last_map(chain: Chain) -> int:
    """The depth of the last map if only vectors follow, else the embedding's."""
    for depth in range(len(chain) - 1, 0, -1):
        if chain.form(depth).kind != "vector":
            return depth if chain.form(depth).kind == "map" else len(chain) - 1
    return len(chain) - 1


def rectified(chain: Chain, depth: int) -> bool:
    """Whether the value at this depth is never negative, because a ReLU was the last to change it."""
    link = chain.links[depth - 1]
    if isinstance(link, nn.Identity | nn.MaxPool2d) and depth > 1:
        return rectified(chain, depth - 1)
    return isinstance(link, RECTIFIERS)
