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
    """How far the student is from standing on the teacher's side of zero by a margin; squared, summed over neurons,
    the mean over images."""
    side = torch.where(teacher > 0, 1.0, -1.0).to(student)
    return F.relu(margin - side * student).square().sum() / len(student)


def connector(source: Form, target: Form) -> nn.Module:
    return nn.Identity() if source == target else Adapter(source, target, norm=True)


@METHODS.register("ab")
class ActivationBoundaries(Stagewise):
    """Which neurons are active, not how much, is taught first; the labels follow.

    For a teacher's value t before its activation and the student's s behind a connector,
    L = Σ_stages 2^(l−n) · ‖1[t > 0] ⊙ σ(m − s) + 1[t ≤ 0] ⊙ σ(m + s)‖², σ = ReLU, l = 1..n: the paper's differentiable
    stand-in for the count of neurons on the wrong side, with margin m = 1. The student learns it alone in a phase of
    its own, ``initial_epochs`` long, and cross-entropy alone afterwards: ``weight`` is what L weighs in the main phase,
    and the field's published scripts multiply it with zero. ``initial_weight``, 3/1000, and the halving from stage to
    stage are those of the field's reference codebase.

    The first phase trains the whole student, as the authors' does; RepDistiller's leaves out a WRN's last batch norm. A
    connector is a 1×1 convolution with batch norm, and none where both values have one form. Ours: stages answer to
    each other by resolution, not by number (`aligned`); where sizes still differ, the connector is 1×1 too, and the map
    averaged or repeated; a network without batch norm (a ViT) is read at the ends of its stages, where its values have
    either sign anyway.
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
