"""Curriculum temperature KD (CTKD): Li, Li, Yang, Zhao, Song, Luo, Li and Yang, "Curriculum Temperature for Knowledge
Distillation" (2022), arXiv 2211.16231."""

import math

import torch
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method
from kdbench.refusal import Refusal


@METHODS.register("ctkd")
class CTKD(Method):
    """KD with a temperature that is trained against the student: it moves to where the loss is larger.

        L = ce_weight · CE + weight · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)), T = lowest + span · sigmoid(θ)

    - θ is one number for all samples (the paper's global version). It descends on −λ·L while the student descends on L:
      its gradient is reversed in the backward pass. The loss that θ sees includes T².
    - λ grows from 0 to 1 over the first ``loops`` epochs, λ = (1 − cos(π · epoch/loops)) / 2: easy first, then hard.

    All values are those of the authors' CIFAR-100 script. As there, θ starts at 1 and so T at 15.6. The student's
    optimiser trains θ, weight decay included.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        lowest: float = 1.0,
        span: float = 20.0,
        loops: int = 10,
        weight: float = 0.9,
        ce_weight: float = 0.1,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if lowest <= 0 or span < 0:
            raise Refusal(f"ctkd: lowest must be above 0 and span at least 0, got {lowest} and {span}")
        self.lowest, self.span = lowest, span
        self.loops = loops
        self.weight = weight
        self.theta = nn.Parameter(torch.ones(()))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        strength = (1 - torch.cos(math.pi * batch.warmed(self.loops))) / 2
        temperature = self.lowest + self.span * reversed_gradient(self.theta, strength).sigmoid()
        return {"kd": self.weight * softened_kl(student.logits, teacher.logits, temperature)}


def reversed_gradient(value: Tensor, strength: Tensor) -> Tensor:
    """The same value; the backward pass multiplies its gradient by −strength."""
    return value.detach() + strength * (value.detach() - value)
