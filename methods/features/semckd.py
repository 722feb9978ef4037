"""Chen et al., "Cross-Layer Distillation with Semantic Calibration" (AAAI 2021, arXiv 2012.03236)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.alignment import stages
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.bottleneck import bottleneck
from kdbench.methods.features.stages import at_one_size
from kdbench.methods.forms import as_map
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs

NARROWING = 4  # the batch size over the width of the embeddings that compare layers
WIDENING, WIDEST = 2, 1024  # the projectors' middle, times the teacher's width, and its limit


@METHODS.register("semckd")
class SemCKD(Method):
    """Every layer of the student learns from every layer of the teacher, weighted by how similar their meaning is.

        L = ce_weight · CE + weight · mean over images and student layers of Σ_t α_st · MSE(P_st(F_s), F_t)

    α_s· = softmax_t(q_s · k_t) is computed for each image. q_s and k_t are the image's row of the batch's similarities
    FFᵀ at a layer, embedded by a perceptron of that layer and L2-normalised. The gradient flows through α too. P_st is
    a bottleneck of 1×1, 3×3 and 1×1 convolutions. Each pair is compared at the smaller map's size. The weight, the
    widths and the lack of a temperature are those of the authors' code. That code adds KD, which is
    ``semckd+kd: {kd: {weight: 1}}`` here.

    Layers are all stages but the first, as in the authors' code. Choices of ours:

    - In a batch with fewer images than usual, the similarity to the missing ones is zero. The authors leave such a
      batch out.
    - Projectors are at most 1,024 wide, which the authors' largest teacher needs. (A ResNet50 would take 0.8 billion
      parameters otherwise.)
    """

    source = "features"

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 400.0, ce_weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.weight = weight
        self.batch = facts.batch
        self.mine = {depth: student.form(depth) for depth in layers(student, "student")}
        self.theirs = {depth: teacher.form(depth) for depth in layers(teacher, "teacher")}
        self.queries = nn.ModuleList(perceptron(self.batch) for _ in self.mine)
        self.keys = nn.ModuleList(perceptron(self.batch) for _ in self.theirs)
        self.projectors = nn.ModuleList(
            nn.ModuleList(
                bottleneck(mine.channels, min(WIDENING * theirs.channels, WIDEST), theirs.channels)
                for theirs in self.theirs.values()
            )
            for mine in self.mine.values()
        )

    def needs(self) -> Needs:
        return Needs(student=frozenset(self.mine), teacher=frozenset(self.theirs), whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        mine = [as_map(student[depth], form) for depth, form in self.mine.items()]
        theirs = [as_map(teacher[depth], form) for depth, form in self.theirs.items()]
        attention = calibration(self._embedded(self.queries, mine), self._embedded(self.keys, theirs))
        distances = torch.stack([self._distances(*row, theirs) for row in zip(self.projectors, mine, strict=True)], 1)
        return {"semckd": self.weight * (attention * distances).sum(2).mean()}

    def _embedded(self, perceptrons: nn.ModuleList, layers: list[Tensor]) -> Tensor:
        """Images × layers × width."""
        rows = [
            perceptron(similarities(layer, self.batch)) for perceptron, layer in zip(perceptrons, layers, strict=True)
        ]
        return F.normalize(torch.stack(rows, 1), dim=2)

    def _distances(self, projectors: nn.Module, mine: Tensor, theirs: list[Tensor]) -> Tensor:
        """From one student layer to each of the teacher's: images × teacher layers."""
        distances = []
        for projector, layer in zip(projectors.children(), theirs, strict=True):
            one, other = at_one_size(mine, layer)
            distances.append((projector(one) - other).square().mean((1, 2, 3)))
        return torch.stack(distances, 1)


def layers(chain: Chain, role: str) -> list[int]:
    depths = stages(chain, role)
    return depths[1:] or depths


def perceptron(batch: int) -> nn.Module:
    width = max(1, batch // NARROWING)
    return nn.Sequential(nn.Linear(batch, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def similarities(layer: Tensor, batch: int) -> Tensor:
    """Each image's inner products with the images of the batch, with zeros for the missing ones."""
    flat = layer.flatten(1)
    return F.pad(flat @ flat.T, (0, batch - len(flat)))


def calibration(queries: Tensor, keys: Tensor) -> Tensor:
    """Images × student layers × teacher layers: how much each student layer learns from each teacher layer."""
    return F.softmax(queries @ keys.transpose(1, 2), dim=2)
