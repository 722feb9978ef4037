"""Relational distillation: Park, Kim, Lu and Cho, "Relational Knowledge Distillation" (CVPR 2019, arXiv 1904.05068)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss between distances of two images, each divided by the mean distance in the batch; the mean over all
    B² pairs, those of an image with itself included."""
    mine, theirs = (distances / distances.mean() for distances in (_distances(student), _distances(teacher)))
    return 2 * F.smooth_l1_loss(mine, theirs, reduction="sum") / len(student) ** 2


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss between the cosines of the angles in which one image sees two others; the mean over all B³."""
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _distances(points: Tensor) -> Tensor:
    return F.pdist(points).clamp(min=1e-6)  # so that two images in one place have a slope: none


def _cosines(points: Tensor) -> Tensor:
    apart = points[:, None] - points
    together = apart.detach().norm(dim=2, keepdim=True) <= 1e-6  # as above: no slope
    directions = F.normalize(apart, dim=2).masked_fill(together, 0)
    return directions @ directions.mT


@METHODS.register("rkd")
class RKD(Method):
    """How far images lie from each other, and in which angles, in the embedding.

    L = ce_weight · CE + distance · L_D + angle · L_A. L_D compares ψ_D(i, j) = ‖z_i − z_j‖ / μ, μ the mean distance of
    two different images in the batch, each network's own; the student's μ carries gradient. L_A compares ψ_A(i, j, k) =
    cos ∠ z_i z_j z_k. Both by Huber's loss with its bend at 1, as in the paper; neither asks for equal widths. Distance
    25 and angle 50 are those of the field's reference codebases, which average over the degenerate pairs and triples
    too, and so does this.

    Where two images lie in one place the angles have a kink; the slope there is taken to be zero.
    """

    source = "relations"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        distance: float = 25.0,
        angle: float = 50.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.distance = distance
        self.angle = angle

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True, whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        mine, theirs = student.embedding, teacher.embedding
        return {
            "distance": self.distance * distance_loss(mine, theirs),
            "angle": self.angle * angle_loss(mine, theirs),
        }
