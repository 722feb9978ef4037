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
    """Block-KD: the student's features pass through the teacher's later blocks, and the resulting logits are distilled.

    The stepping stone N_i = T_c∘T_n∘…∘T_{i+1}∘C_i∘S_i∘…∘S_1 is the student up to its block i, a connector C_i, and the
    rest of the teacher. N_n is the student's body under the teacher's head: its classifier, and its last norm and
    pooling where it has them. The teacher is frozen, but the gradient flows through it into C_i and S_1..S_i. In the
    loss, α is ``ce_weight``, β is ``distill_weight``, γ is ``cross_weight``, and KL(Y, Z) is short for
    T² · KL(softmax(Z/T) ‖ softmax(Y/T)). Its second argument is the target: the teacher or the ensemble.

        L = α · [CE(S) + Σ_i 2^-(n-i) · CE(N_i)]            the loop adds CE(S); the rest is `stones`
          + β · [KL(S, T) + Σ_i 2^-(n-i) · KL(N_i, T)]      `distill`
          + γ · [KL(S, E) + Σ_i KL(N_i, E)]                 `cross`, with E the mean of all N_i's logits

    Stepping stones exist only in training: the student is shipped as it is.

    Choices of ours, which the paper's text leaves open:

    - α = β = 1 and γ = 0.3: of 0.3 and 1 for β and γ, these did best on held-out images of CIFAR-100 (one seed).
    - T = 4 and the factor T², in `cross` too.
    - A connector is a 1×1 convolution and batch norm, without activation. Sizes are matched by pooling or repeating.
    - E carries no gradient (``detach_ensemble``).
    - The direction of the KLs.
    - Blocks end where the stages of the two networks are paired (`aligned`), so n is the smaller network's number of
      them. A stem is a block only if it has its own resolution.
    - ``stones`` is the lighter variant: it keeps only this many stones. These are the deepest ones, which have the
      largest weights and the shortest tails. Their weights do not change, and E is their mean.
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
        """The logits of each stepping stone, from shallow to deep."""
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
    """Σ_i 2^-(n-i) · term_i: each term has half the weight of the next deeper one."""
    return torch.stack([term / 2**back for back, term in enumerate(reversed(terms))]).sum()


def agreement(student: Tensor, stones: Sequence[Tensor], temperature: float, *, detach: bool) -> Tensor:
    """L_cross: the distance of the student and of every stepping stone from the mean of the stones' logits."""
    ensemble = torch.stack(list(stones)).mean(0)
    target = ensemble.detach() if detach else ensemble
    return torch.stack([softened_kl(logits, target, temperature) for logits in (student, *stones)]).sum()
