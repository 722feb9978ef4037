"""Weighted soft labels (WSLD): Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, "Rethinking Soft Labels for Knowledge
Distillation: A Bias-Variance Tradeoff Perspective" (2021), arXiv 2102.00650."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import softened_kl_of_each
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above


@METHODS.register("wsld")
class WSLD(Method):
    """KD with a weight for each sample: small where the student already does better than the teacher.

        L = ce_weight · CE + weight · mean over samples of w · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T))
        w = 1 − exp(−CE_s / CE_t)

    CE_s and CE_t are the cross-entropies with the label, at temperature 1; w carries no gradient. The authors write the
    cross-entropy of the soft labels instead of KL. Its gradient is the same, and its value differs by the teacher's
    entropy.

    Choice of ours: T = 4 and weight 2.25 for every data set. NKD's authors use these values for WSLD on CIFAR-100. We
    have not read them in the paper. WSLD's own code, which is only for ImageNet, has 2 and 2.5.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        temperature: float = 4.0,
        weight: float = 2.25,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        above("wsld", 0, temperature=temperature)
        self.temperature = temperature
        self.weight = weight

    def needs(self) -> Needs:
        return Needs(labels=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"wsld": self.weight * weighted_kl(student.logits, teacher.logits, batch.labels, self.temperature)}


def weighted_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over samples of w · T² · KL."""
    mine, theirs = (F.cross_entropy(logits.detach(), labels, reduction="none") for logits in (student, teacher))
    weights = 1 - (-mine / (theirs + 1e-7)).exp()
    return (weights * softened_kl_of_each(student, teacher, temperature)).mean()
