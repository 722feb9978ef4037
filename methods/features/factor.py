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
    """The mean absolute difference between an image's two factors, each a unit vector."""
    student, teacher = (F.normalize(factor.flatten(1), dim=1) for factor in at_one_size(student, teacher))
    return F.l1_loss(student, teacher)


@METHODS.register("ft")
class FactorTransfer(Stagewise):
    """A paraphraser compresses the teacher's last map; a translator of the student's map learns to match the result.

    The paraphraser is an autoencoder of three layers and three back. It learns ‖F_t − P(F_t)‖² without labels and
    without the student, in a phase of ``initial_epochs``. Its code is the factor of the teacher, ``rate`` times as wide
    as the map (the paper's k). Then the translator, three layers on the student's map, gives the student's factor. The
    paraphraser no longer changes.

        L = ce_weight · CE + weight · ‖ factor_t/‖factor_t‖₂ − factor_s/‖factor_s‖₂ ‖₁, the mean over elements

    Whole factors are compared, with weight 500, as in the authors' code. The field's reference codebases compare the
    mean of the factors' squares over channels, with weight 200. The length of the first phase is theirs.

    Choices of ours:

    - Every layer has batch norm. The authors' code has none.
    - The paraphraser's last layer is linear, so that features of either sign can be rebuilt.
    - The paraphraser learns squares of errors, as in the paper. The authors' code takes absolute errors.
    - The paraphraser learns at the recipe's rate. The reference codebase sets 0.01 for every residual student.
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
        self.paraphraser.eval()  # frozen, with its batch norms' statistics
        with torch.no_grad():
            factor = self.paraphraser(theirs)
        return {"factor": self.weight * factor_distance(self.translator(mine), factor)}
