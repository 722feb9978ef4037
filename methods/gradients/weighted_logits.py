"""Logits weighted by gradients: Hsu, Smith, Shen, Kira and Jin, "A Closer Look at Knowledge Distillation with Features,
Logits, and Gradients" (2022, arXiv 2203.10163)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.gradients.fisher import diagonal_form, logits_diagonal, logits_form, mean_trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, Source


@METHODS.register("weighted_logits")
class WeightedLogits(Method):
    """Matches the teacher's logits; each logit's weight is the sensitivity of the teacher's prediction to it.

        L = ce_weight · CE + weight · ½ Σ_k W_k (z_s,k − z_t,k)²

    z are the logits and p = softmax(z_t). ``weighting`` selects W:

    - "plain": W = 1. Tables give its source as logits.
    - "diagonal": W_k = p_k(1 − p_k), the diagonal of the Fisher information of p about z.
    - "full": the quadratic form of all of it, diag p − p pᵀ, which is the KL divergence to second order.

    Choices of ours: the normalisation and the weights, which the paper's text leaves open. Without ``normalise`` the
    loss has the scale of the KL divergence at T = 1, hence weight 1. W = 1 does not have this scale: it grows with the
    number of classes. ``normalise`` divides by the batch mean of the trace of the Fisher information (for W = 1, by the
    number of classes), which gives a weighted mean over classes. For "plain" this is the limit of T² · KL at high
    temperatures, except for the shift of a sample's logits. ``normalise`` relates the images of a batch. For a
    confident teacher it gives nearly all weight to the few images that the teacher is unsure of. With weights from
    gradients, this trains unsteadily.
    """

    source = "gradients"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weighting: Literal["plain", "diagonal", "full"] = "diagonal",
        normalise: bool = False,
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.weighting = weighting
        self.normalise = normalise
        self.weight = weight

    @classmethod
    def draws_on(cls, params: Mapping[str, Any]) -> Source:
        return "logits" if params.get("weighting") == "plain" else cls.source  # "plain" uses no gradient

    def needs(self) -> Needs:
        return Needs(whole_batch=self.normalise and self.weighting != "plain")

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        p = teacher.logits.softmax(1)
        diagonal = torch.ones_like(p) if self.weighting == "plain" else logits_diagonal(p)
        if self.weighting == "full":
            value = logits_form(student.logits, teacher.logits, p)
        else:
            value = diagonal_form(student.logits, teacher.logits, diagonal)
        return {"logits": self.weight * (value / mean_trace(diagonal) if self.normalise else value)}
