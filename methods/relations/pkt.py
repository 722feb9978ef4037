"""Probabilistic knowledge transfer: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge
Transfer" (ECCV 2018, arXiv 1803.10837)."""

from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs

EPSILON = 1e-7


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ p_t · log(p_t / p_s) / B² over all pairs of a batch."""
    mine, theirs = _probabilities(student), _probabilities(teacher)
    return (theirs * ((theirs + EPSILON) / (mine + EPSILON)).log()).mean()


def _probabilities(points: Tensor) -> Tensor:
    """Row i: the probability of each image, image i included, to be the neighbour that image i picks."""
    directions = points / (points.norm(dim=1, keepdim=True) + EPSILON)
    kernel = (directions @ directions.T + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)


@METHODS.register("pkt")
class PKT(Method):
    """Matches which neighbours an image has, as a distribution over the batch.

        L = ce_weight · CE + weight · KL(P_t ‖ P_s), p(j|i) = K(z_i, z_j) / Σ_k K(z_i, z_k)

    K is the paper's cosine kernel, scaled to [0, 1], and z is the embedding. As in the reference codebases, the sum
    includes j = i, the divergence is the mean over all B² entries (hence the large weight, which is theirs), and 1e-7
    is added to norms and probabilities.
    """

    source = "relations"

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 30000.0, ce_weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.weight = weight

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True, whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"neighbours": self.weight * divergence(student.embedding, teacher.embedding)}
