"""Flow of solution procedure: Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network
Minimization and Transfer Learning" (CVPR 2017)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.stages import Stagewise, at_one_size, consecutive, initial_epochs_of, widened
from kdbench.methods.method import METHODS, Batch, Facts, Phase


def flow(shallow: Tensor, deep: Tensor) -> Tensor:
    """The Gram matrix between two stages of one network: products of their channels, averaged over positions."""
    shallow, deep = at_one_size(shallow, deep)
    return shallow.flatten(2) @ deep.flatten(2).mT / shallow[0, 0].numel()


def flow_distance(maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The squared error between flows of consecutive stages: averaged over images and channels, summed over stages."""
    distances = [
        F.mse_loss(flow(mine, next_mine), flow(theirs, next_theirs))
        for (mine, theirs), (next_mine, next_theirs) in pairwise(maps)
    ]
    return torch.stack(distances).sum()


def from_the_stem(student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """Consecutive resolutions; the stems come first if the first stages have the same resolution as the stems."""
    pairs = consecutive("fsp", student, teacher)
    stem, first = (student.stages[0], teacher.stages[0]), pairs[0]
    apart = stem[0] < first[0] and stem[1] < first[1]
    as_large = all(
        chain.form(depth).size == chain.form(stage).size
        for chain, depth, stage in zip((student, teacher), stem, first, strict=True)
    )
    return [stem, *pairs] if apart and as_large else pairs


@METHODS.register("fsp")
class FlowOfSolutionProcedure(Stagewise):
    """The student first learns how one stage leads to the next, as a Gram matrix; then it learns the labels.

        L = Σ_(l, l+1) mean of (G_s − G_t)², G = F_lᵀ F_(l+1) / positions

    The larger map is averaged to the size of the other. As in the paper, the student learns only L in a phase of
    ``initial_epochs``, and only cross-entropy afterwards. ``weight`` is the weight of L in the main phase, where the
    field's published scripts multiply it by zero.

    As in the field's scripts, flows run from the stem to the first stage, and from each resolution to the next. (In the
    paper they run from the first to the last layer of a stage.) Both need equal widths.

    Choice of ours: a learned 1×1 convolution first brings a student's map of another width to the teacher's width.
    """

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        initial_epochs: int = 30,
        weight: float = 0.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, from_the_stem(student, teacher), ce_weight=ce_weight)
        self.phases = (Phase("fsp", initial_epochs_of("fsp", initial_epochs)),)
        self.weight = weight
        self.widen = nn.ModuleList(widened(source, target) for source, target in self.forms)

    def listens(self, phase: str) -> bool:
        return phase != "main" or self.weight != 0

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        weight = self.weight if batch.phase == "main" else 1.0
        if weight == 0:
            return {}
        maps = self.maps(student, teacher)
        wide = [(widen(mine), theirs) for widen, (mine, theirs) in zip(self.widen, maps, strict=True)]
        return {"flow": weight * flow_distance(wide)}
