"""Decoupled KD: Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation" (2022), arXiv 2203.08679."""

import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import others, softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above


@METHODS.register("dkd")
class DKD(Method):
    """The KD loss split at the labelled class, so that each part can have its own weight.

        L = ce_weight · CE + warm-up · (alpha · TCKD + beta · NCKD)

    Both parts are multiplied by T².

    - ``target``, TCKD: KL between the two networks' answers to "the labelled class or another?".
    - ``others``, NCKD: KL between their answers among only the other classes. KD itself weights it with 1 − p_t of the
      labelled class, which suppresses it where the teacher is confident.

    The warm-up is linear over the first ``warmup`` epochs. A recipe much shorter than the paper's 240 epochs needs a
    shorter warm-up. With 20 epochs and a learning rate that falls to zero, the default reaches its full weight when
    training has already stopped.

    Choice of ours: one beta for all pairs of networks. The paper tunes beta for each pair (2, 6 and 8 among others).
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup: int = 20,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        above("dkd", 0, temperature=temperature)
        self.alpha, self.beta = alpha, beta
        self.temperature = temperature
        self.warmup = warmup

    def needs(self) -> Needs:
        return Needs(labels=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        target, rest = decoupled(student.logits, teacher.logits, batch.labels, self.temperature)
        share = batch.warmed(self.warmup)
        return {"target": share * self.alpha * target, "others": share * self.beta * rest}


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, both times T²."""
    s, t = target_or_not(student / temperature, labels), target_or_not(teacher / temperature, labels)
    target = temperature**2 * softened_kl(s, t, 1.0)
    return target, softened_kl(others(student, labels), others(teacher, labels), temperature)


def target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """B × 2 logits whose softmax is the probability of the labelled class, and that of all others together."""
    return torch.cat([logits.gather(1, labels[:, None]), others(logits, labels).logsumexp(1, keepdim=True)], dim=1)
