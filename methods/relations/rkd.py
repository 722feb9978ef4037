"""Relational distillation: Park, Kim, Lu and Cho, "Relational Knowledge Distillation" (CVPR 2019, arXiv 1904.05068)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss between distances of two images, each divided by the mean distance in the batch.

    It is the mean over all B² pairs, including those of an image with itself.
    """
    mine, theirs = (distances / distances.mean() for distances in (_distances(student), _distances(teacher)))
    return 2 * F.smooth_l1_loss(mine, theirs, reduction="sum") / len(student) ** 2


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss between the cosines of the angles at which one image sees two others; the mean over all B³."""
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _distances(points: Tensor) -> Tensor:
    return F.pdist(points).clamp(min=1e-6)  # gives two images in one place a gradient: zero


def _cosines(points: Tensor) -> Tensor:
    apart = points[:, None] - points
    together = apart.detach().norm(dim=2, keepdim=True) <= 1e-6  # as above: zero gradient
    directions = F.normalize(apart, dim=2).masked_fill(together, 0)
    return directions @ directions.mT


@METHODS.register("rkd")
class RKD(Method):
    """Matches the distances between images, and the angles between them, in the embedding.

        L = ce_weight · CE + distance · L_D + angle · L_A

    - L_D compares ψ_D(i, j) = ‖z_i − z_j‖ / μ. μ is the mean distance of two different images in the batch, separately
      for each network. The student's μ carries gradient.
    - L_A compares ψ_A(i, j, k) = cos ∠ z_i z_j z_k.

    Both use Huber's loss with its bend at 1, as in the paper. Widths may differ. Distance 25 and angle 50 are those of
    the field's reference codebases. Like them, this method also averages over the degenerate pairs and triples. Where
    two images have the same embedding, the angles have a kink; the gradient there is set to zero.
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
