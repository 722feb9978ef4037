"""Class-aware logit KD: Zhang, Liu, Hopcroft and He, "Class-aware Information for Logit-based Knowledge Distillation"
(2022), arXiv 2211.14773."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import gram_distance, silent_where_blank
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs

Reduction = Literal["element", "sample"]
Correlation = Literal["classes", "samples", "coefficients"]


@METHODS.register("clkd")
class CLKD(Method):
    """Compares the matrix of logits Z (B × C) by its rows, by its columns, and by how its columns vary together.

        L = ce_weight · CE + mu · (L_ins + beta · L_cls) + nu · L_cc

    All terms use raw logits: no softmax, no temperature.

    - ``instance``, L_ins: squared error between the two networks' rows of Z (samples), each divided by its L2 norm.
    - ``class``, L_cls: the same for the columns of Z (one class over the batch).
    - ``correlation``, L_cc: squared Frobenius distance of the two networks' correlation matrices, / C².

    Choices of ours, which the paper's text does not settle. The defaults did best on held-out images of CIFAR-100 and
    on the digits. There, either covariance dominated the other terms and gave a lower result than no L_cc at all.

    - ``reduction``: "sample" sums the squares within each normalised vector and takes the mean over the vectors (over
      samples in L_ins, over classes in L_cls). This is 2 − 2·cos, between 0 and 4 for all sizes. "element" is the mean
      over all elements: the same divided by C (L_ins) or by B (L_cls), which is very small beside cross-entropy.
    - ``correlation``: the orientation of the matrix. The paper's text has two readings, "classes" and "samples". Both
      centre each column, that is each class by its mean over the batch: Zc.
    - "classes" is Zcᵀ·Zc / (B − 1), C × C: the covariance of classes, estimated from B samples.
    - "samples" is Zc·Zcᵀ / (C − 1), B × B: the sum over classes of the outer product of the class's centred column. It
      shows how similar two samples are, seen from the batch's mean. The divisor C − 1 would fit centring each sample
      over the classes. The columns are centred nevertheless, because the sum runs over them. Divided by C², the term
      grows with B²: its weight depends on the batch size.
    - As written, "classes" and "samples" are covariances: nothing divides by the deviations, and L_cc grows with the
      fourth power of the logits' scale.
    - "coefficients" is a third reading, ours: Pearson's coefficients between classes over the batch, C × C, as the name
      says, all between −1 and 1.

    Independent implementations agree on mu, nu and ce_weight. For beta, some use 2 and others 1.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        mu: float = 0.5,
        beta: float = 2.0,
        nu: float = 0.4,
        reduction: Reduction = "sample",
        correlation: Correlation = "coefficients",
        ce_weight: float = 0.1,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.mu, self.beta, self.nu = mu, beta, nu
        self.reduction, self.correlation = reduction, correlation

    def needs(self) -> Needs:
        return Needs(whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        pair = silent_where_blank(student.logits), teacher.logits
        return {
            "instance": self.mu * normalised_distance(*pair, dim=1, reduction=self.reduction),
            "class": self.mu * self.beta * normalised_distance(*pair, dim=0, reduction=self.reduction),
            "correlation": self.nu * correlation_distance(*pair, self.correlation),
        }


def normalised_distance(student: Tensor, teacher: Tensor, dim: int, reduction: Reduction) -> Tensor:
    """Squared error between vectors of length 1 along ``dim``: L_ins along the classes, L_cls along the batch."""
    distance = F.mse_loss(F.normalize(student, dim=dim), F.normalize(teacher, dim=dim))
    return distance * student.shape[dim] if reduction == "sample" else distance


def correlation_distance(student: Tensor, teacher: Tensor, correlation: Correlation) -> Tensor:
    """L_cc; a batch of one image has no variation, and its L_cc is 0."""
    samples, classes = student.shape
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    match correlation:
        case "classes":
            return gram_distance(s, t) / (max(samples - 1, 1) * classes) ** 2
        case "samples":
            return gram_distance(s.T, t.T) / ((classes - 1) * classes) ** 2
        case "coefficients":
            return gram_distance(F.normalize(s, dim=0), F.normalize(t, dim=0)) / classes**2
