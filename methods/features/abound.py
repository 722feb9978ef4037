"""Activation boundaries: Heo, Lee, Yun and Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed
by Hidden Neurons" (AAAI 2019, arXiv 1811.03233)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.preactivation import preactivations
from kdbench.methods.features.stages import Stagewise, initial_epochs_of
from kdbench.methods.forms import Adapter, Form
from kdbench.methods.method import METHODS, Batch, Facts, Phase, above


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """How far the student is from a margin on the teacher's side of zero: squared, summed over neurons, averaged over
    images."""
    side = torch.where(teacher > 0, 1.0, -1.0).to(student)
    return F.relu(margin - side * student).square().sum() / len(student)


def connector(source: Form, target: Form) -> nn.Module:
    return nn.Identity() if source == target else Adapter(source, target, norm=True)


@METHODS.register("ab")
class ActivationBoundaries(Stagewise):
    """The student first learns which neurons are active, not how strongly; then it learns the labels.

        L = Σ_stages 2^(l−n) · ‖1[t > 0] ⊙ σ(m − s) + 1[t ≤ 0] ⊙ σ(m + s)‖², σ = ReLU, l = 1..n

    t is a teacher's value before its activation, and s is the student's behind a connector. L is the paper's
    differentiable substitute for the count of neurons on the wrong side, with margin m = 1. The student learns only L
    in a phase of ``initial_epochs``, and only cross-entropy afterwards. ``weight`` is the weight of L in the main
    phase, where the field's published scripts multiply it by zero. ``initial_weight``, 3/1000, and the halving from
    stage to stage are those of the field's reference codebase.

    The first phase trains the whole student, as the authors' does. RepDistiller's leaves out a WRN's last batch norm. A
    connector is a 1×1 convolution with batch norm. There is none where both values have the same form.

    Choices of ours:

    - The teacher is in evaluation mode, as in RepDistiller. In the authors' code it uses batch statistics in the first
      phase, the student learns by KD only (T = 3) in the second, and connectors are drawn by He's rule.
    - Stages are paired by resolution, not by number (`aligned`).
    - Where sizes still differ, the connector is 1×1 too, and the map is averaged or repeated.
    - A network without batch norm (a ViT) is read at the ends of its stages, where its values have either sign anyway.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        margin: float = 1.0,
        initial_epochs: int = 30,
        initial_weight: float = 0.003,
        weight: float = 0.0,
        ce_weight: float = 1.0,
    ) -> None:
        above("ab", 0, margin=margin, initial_weight=initial_weight)
        super().__init__(student, teacher, facts, preactivations(student, teacher), ce_weight=ce_weight)
        self.phases = (Phase("ab", initial_epochs_of("ab", initial_epochs)),)
        self.margin = margin
        self.initial_weight = initial_weight
        self.weight = weight
        self.connectors = nn.ModuleList(connector(source, target) for source, target in self.forms)

    def listens(self, phase: str) -> bool:
        return phase != "main" or self.weight != 0

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        weight = self.weight if batch.phase == "main" else self.initial_weight
        if weight == 0:
            return {}
        terms = [
            boundary_loss(connect(student[mine]), teacher[theirs], self.margin) / 2**behind
            for behind, (connect, (mine, theirs)) in enumerate(
                zip(reversed(self.connectors), reversed(self.pairs), strict=True)
            )
        ]
        return {"boundary": weight * torch.stack(terms).sum()}
