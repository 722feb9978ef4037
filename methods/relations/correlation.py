"""Correlation congruence: Peng et al., "Correlation Congruence for Knowledge Distillation" (ICCV 2019, arXiv
1904.01802), and the loss that the field's reference codebases run under its name."""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs
from kdbench.refusal import Refusal


def neighbours_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_d |Δ_i|·|Δ_{i+1}| with Δ = student − teacher; the mean over the batch's B − 1 pairs of neighbours."""
    apart = (student - teacher).abs()
    return (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)


def kernel_loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """‖K_s − K_t‖²_F / B²."""
    return F.mse_loss(_kernel(student, gamma, order), _kernel(teacher, gamma, order))


def _kernel(points: Tensor, gamma: float, order: int) -> Tensor:
    """exp(−γ‖x − y‖²) of all pairs of unit vectors, by Taylor's series in x·y."""
    directions = F.normalize(points, dim=1)
    cosines = directions @ directions.T
    series = (cosines**p * ((2 * gamma) ** p / math.factorial(p)) for p in range(order + 1))
    return math.exp(-2 * gamma) * sum(series, start=cosines.new_zeros(()))


@METHODS.register("cc")
class CorrelationCongruence(Method):
    """Matches how the features of one image correlate with those of another.

        L = ce_weight · CE + weight · L_CC

    L_CC is computed on the embedding. Two losses have this name:

    - ``form="neighbours"``, the default, is the loss that the reference codebases run and that the published tables
      hold. It is *not* the paper's loss. Two linear maps to ``width`` dimensions, one per network, project the
      embeddings. Both are trained, and their outputs are not normalised. The error of an image is multiplied by the
      error of the next image in the batch. So the loss depends on the batch's order, it correlates errors rather than
      features, and two maps to one constant would minimise it. Weight 0.02, width 128.
    - ``form="kernel"`` is the paper's correlation congruence: K(x, y) = exp(−γ‖x − y‖²) for all pairs in the batch, by
      its Taylor series up to ``order``. The student's and the teacher's kernels are compared by the squared Frobenius
      norm / B². Widths may differ, and only the student is trained. Public codes use γ = 0.4 and order 2. The default
      weight is for the other form and must be chosen again here.

    The paper's own recipe also has vanilla KD (``cc+kd``). It samples batches by class, which this method does not.
    """

    source = "relations"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        form: Literal["neighbours", "kernel"] = "neighbours",
        weight: float = 0.02,
        width: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if width < 1:
            raise Refusal(f"cc: width must be at least 1, got {width}")
        if gamma <= 0 or order < 1:
            raise Refusal(f"cc: gamma must be above 0 and order at least 1, got {gamma} and {order}")
        self.form = form
        self.weight = weight
        self.gamma = gamma
        self.order = order
        if form == "neighbours":
            self.mine = nn.Linear(student.embedding_width, width)
            self.theirs = nn.Linear(teacher.embedding_width, width)

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True, whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        if self.form == "kernel":
            loss = kernel_loss(student.embedding, teacher.embedding, self.gamma, self.order)
        else:
            loss = neighbours_loss(self.mine(student.embedding), self.theirs(teacher.embedding))
        return {"correlation": self.weight * loss}
