"""Block-wise logit distillation: Yu et al., "Decoupling Dark Knowledge via Block-wise Logit Distillation for
Feature-level Alignment", arXiv 2411.01547."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.forms import Adapter
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above
from kdbench.refusal import Refusal


@METHODS.register("blockwise")
class Blockwise(Method):
    """Block-KD: the teacher's later blocks read the student's features, and what they say is distilled as logits.

    The stepping stone N_i = T_c∘T_n∘…∘T_{i+1}∘C_i∘S_i∘…∘S_1 is the student up to its block i, a connector, and the rest
    of the teacher; N_n is the student's body under the teacher's head (its last norm and pooling, where it has them,
    and its classifier). The teacher is frozen, but the gradient flows through it into C_i and S_1..S_i. With α =
    ``ce_weight``, β = ``distill_weight``, γ = ``cross_weight``, and KL(Y, Z) short for T² · KL(softmax(Z/T) ‖
    softmax(Y/T)), so that the second argument is the target (the teacher or the ensemble):

        L = α · [CE(S) + Σ_i 2^-(n-i) · CE(N_i)]            the student's own is added by the loop; the rest is `stones`
          + β · [KL(S, T) + Σ_i 2^-(n-i) · KL(N_i, T)]      `distill`
          + γ · [KL(S, E) + Σ_i KL(N_i, E)]                 `cross`, with E the mean of all N_i's logits

    Stepping stones are for training alone: the student is shipped as it is.

    Ours, as the paper's text does not tell us: α = β = 1 and γ = 0.3, which did best of 0.3 and 1 for β and γ on held-
    out images of CIFAR-100 (one seed); T = 4 and the factor T², in `cross` too; connectors of a 1×1 convolution and
    batch norm, no activation, with sizes matched by pooling or repeating; E carries no gradient (``detach_ensemble``);
    direction of the KLs. Blocks end where the stages of the two networks answer to each other (`aligned`), so n is the
    smaller network's number of them, and a stem is a block only at a resolution of its own. ``stones`` is the lighter
    variant: the deepest so many are kept, which weigh the most and have the shortest tails; the weights of those that
    stay do not change, and E is their mean.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        ce_weight: float = 1.0,
        distill_weight: float = 1.0,
        cross_weight: float = 0.3,
        temperature: float = 4.0,
        detach_ensemble: bool = True,
        stones: int | None = None,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        blocks = aligned(student, teacher)
        kept = len(blocks) if stones is None else stones
        above("blockwise", 0, temperature=temperature)
        if not 1 <= kept <= len(blocks):
            raise Refusal(f"blockwise: stones must be from 1 to this pair's {len(blocks)} blocks, got {kept}")
        self.distill_weight = distill_weight
        self.cross_weight = cross_weight
        self.temperature = temperature
        self.detach_ensemble = detach_ensemble
        self.blocks = blocks[-kept:]
        self.connectors = nn.ModuleList(
            Adapter(student.form(mine), teacher.form(theirs), norm=True) for mine, theirs in self.blocks
        )

    def needs(self) -> Needs:
        return Needs(student=frozenset(mine for mine, _ in self.blocks), labels=True, live_teacher=True)

    def stones(self, student: Trace) -> list[Tensor]:
        """What each stepping stone says, from shallow to deep."""
        return [
            self.teacher.resume(connector(student[mine]), after=theirs)
            for connector, (mine, theirs) in zip(self.connectors, self.blocks, strict=True)
        ]

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        stones = self.stones(student)

        def distilled(logits: Tensor) -> Tensor:
            return softened_kl(logits, teacher.logits, self.temperature)

        distill = distilled(student.logits) + discounted([distilled(stone) for stone in stones])
        cross = agreement(student.logits, stones, self.temperature, detach=self.detach_ensemble)
        return {
            "stones": self.ce_weight * discounted([batch.task(stone) for stone in stones]),
            "distill": self.distill_weight * distill,
            "cross": self.cross_weight * cross,
        }


def discounted(terms: Sequence[Tensor]) -> Tensor:
    """Σ_i 2^-(n-i) · term_i: each weighs half of the one behind it."""
    return torch.stack([term / 2**back for back, term in enumerate(reversed(terms))]).sum()


def agreement(student: Tensor, stones: Sequence[Tensor], temperature: float, *, detach: bool) -> Tensor:
    """L_cross: how far the student and every stepping stone are from the mean of the stones' logits."""
    ensemble = torch.stack(list(stones)).mean(0)
    target = ensemble.detach() if detach else ensemble
    return torch.stack([softened_kl(logits, target, temperature) for logits in (student, *stones)]).sum()
