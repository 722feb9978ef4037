"""Factor transfer: Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer"
(NeurIPS 2018, arXiv 1802.04977)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.batch_norm import BatchNorm
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size, initial_epochs_of
from kdbench.methods.method import METHODS, Batch, Facts, Phase, above


def layers(*widths: int) -> list[nn.Module]:
    """3×3 convolutions from width to width, each with batch norm and a leaky ReLU."""
    found: list[nn.Module] = []
    for width, following in pairwise(widths):
        found += [nn.Conv2d(width, following, 3, padding=1), BatchNorm(following), nn.LeakyReLU(0.1)]
    return found


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Between an image's factors, each a vector of length one: the mean absolute difference."""
    student, teacher = (F.normalize(factor.flatten(1), dim=1) for factor in at_one_size(student, teacher))
    return F.l1_loss(student, teacher)


@METHODS.register("ft")
class FactorTransfer(Stagewise):
    """What the teacher's last map says, put into fewer words by a paraphraser, and understood by a translator.

    The paraphraser, an autoencoder of three layers and three back, learns ‖F_t − P(F_t)‖² without labels and without
    the student, in a phase of its own, ``initial_epochs`` long. Its code is the factor of the teacher, ``rate`` times
    as wide as the map (the paper's k). Then the translator, three layers on the student's map, gives the student's
    factor: L = ce_weight · CE + weight · ‖ factor_t/‖factor_t‖₂ − factor_s/‖factor_s‖₂ ‖₁, the mean over elements; the
    paraphraser stays as it is.

    Factors are compared whole and weighed with 500, as in the authors' code; the field's reference codebases, whose
    length of the first phase this is, compare the mean of their squares over channels and weigh that with 200. Ours:
    batch norm in every layer, where the authors' code has none; the paraphraser's last layer is linear, so that
    features of either sign can be rebuilt, and learns squares of errors as the paper has it, where the authors' code
    takes absolute ones; and it learns at the recipe's rate, where the reference codebase sets 0.01 for every residual
    student.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        rate: float = 0.5,
        initial_epochs: int = 30,
        weight: float = 500.0,
        ce_weight: float = 1.0,
    ) -> None:
        above("ft", 0, rate=rate)
        super().__init__(student, teacher, facts, aligned(student, teacher)[-1:], ce_weight=ce_weight)
        self.phases = (Phase("ft", initial_epochs_of("ft", initial_epochs), student=False),)
        self.weight = weight
        [(mine, theirs)] = self.forms
        width, code = theirs.channels, max(1, round(rate * theirs.channels))
        self.paraphraser = nn.Sequential(*layers(width, width, code, code))
        self.rebuild = nn.Sequential(*layers(code, code, width), nn.Conv2d(width, width, 3, padding=1))
        self.translator = nn.Sequential(*layers(mine.channels, mine.channels, code, code))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        [(mine, theirs)] = self.maps(student, teacher)
        if batch.phase != "main":
            return {"paraphrase": F.mse_loss(self.rebuild(self.paraphraser(theirs)), theirs)}
        self.paraphraser.eval()  # nothing of it moves any more, its batch norms' statistics neither
        with torch.no_grad():
            factor = self.paraphraser(theirs)
        return {"factor": self.weight * factor_distance(self.translator(mine), factor)}
