"""FitNets: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets"
(ICLR 2015, arXiv 1412.6550)."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.batch_norm import BatchNorm
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size
from kdbench.methods.forms import Form
from kdbench.methods.method import METHODS, Batch, Facts
from kdbench.refusal import Refusal


def convolution(source: Form, target: Form) -> nn.Module:
    """As in the field's code: 3×3 with stride 2 to half the size, 4×4 transposed to twice the size, else 1×1."""
    width, new_width = source.channels, target.channels
    if source.size == (2 * target.size[0], 2 * target.size[1]):
        return nn.Conv2d(width, new_width, 3, stride=2, padding=1)
    if target.size == (2 * source.size[0], 2 * source.size[1]):
        return nn.ConvTranspose2d(width, new_width, 4, stride=2, padding=1)
    return nn.Conv2d(width, new_width, 1)


def regressor(source: Form, target: Form) -> nn.Sequential:
    """Predicts a hint from the student's feature; ends in an activation unless the hint is tokens, which have none."""
    activation = nn.Identity() if target.kind == "tokens" else nn.ReLU()
    return nn.Sequential(convolution(source, target), BatchNorm(target.channels), activation)


def hint_loss(guess: Tensor, hint: Tensor) -> Tensor:
    return F.mse_loss(*at_one_size(guess, hint))


@METHODS.register("fitnet")
class FitNet(Stagewise):
    """One stage of the student, the guided layer, predicts one stage of the teacher, the hint.

        L = ce_weight · CE + weight · mean of (r(F_s) − F_t)² over all elements

    r is a convolutional regressor.

    The paper first trains the student up to the guided layer on only the hint, and distils afterwards. The field's
    reference codebases, which use this weight of 100, add both terms throughout, and so does this method. Their
    regressor is a convolution, batch norm and ReLU. Their stage is the third tap of each network, with the stem's
    counted. ``stage`` counts the student's taps in the same way, from 1. The teacher's depth is the one that is paired
    with this tap. If none is, the nearest tap with a partner is used instead.

    Choices of ours:

    - If sizes are neither equal nor in the ratio of two, the convolution is 1×1, and the larger of guess and hint is
      averaged. (The field has one large kernel without padding there, or nothing.)
    - Tokens have either sign: if they are the hint, the regressor ends with its norm.
    - A map is predicted behind a ReLU whatever its sign, as in the field's code. For hints that have passed no ReLU
      (wide ResNets', MobileNets', many of timm's), the negative part cannot be reached.
    - If the teacher is an earlier state of the student, no regressor is needed.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        stage: int = 3,
        weight: float = 100.0,
        ce_weight: float = 1.0,
    ) -> None:
        if stage < 1:
            raise Refusal(f"fitnet: stage must be 1 or more, got {stage}")
        number = {depth: place for place, depth in enumerate(student.stages, start=1)}
        pair = min(aligned(student, teacher), key=lambda pair: abs(number[pair[0]] - stage))
        super().__init__(student, teacher, facts, [pair], ce_weight=ce_weight)
        self.weight = weight
        source, target = self.forms[0]
        self.regressor = nn.Identity() if facts.continued and source == target else regressor(source, target)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        [(mine, hint)] = self.maps(student, teacher)
        return {"hint": self.weight * hint_loss(self.regressor(mine), hint)}
