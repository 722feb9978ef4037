"""Similarity-preserving distillation: Tung and Mori (ICCV 2019, arXiv 1907.09682)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.forms import as_map
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖G_s − G_t‖²_F / B² of the activations of a batch, which may have any shapes."""
    return F.mse_loss(_similarity(student), _similarity(teacher))


def _similarity(activations: Tensor) -> Tensor:
    rows = activations.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


@METHODS.register("sp")
class SimilarityPreserving(Method):
    """Images that are similar for the teacher become similar for the student.

        L = ce_weight · CE + weight · ‖G_s − G_t‖²_F / B²

    G is Q·Qᵀ with each row divided by its L2 norm. Q holds the B activations of a layer, flattened. Neither widths nor
    sizes need to agree. The weight, 3000, and the layer, the last stage, are those of the field's reference codebases.
    Here this layer is the deepest aligned pair of stages.

    Choice of ours: for tokens, Q leaves out those before the grid. The paper has no tokens.
    """

    source = "relations"

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 3000.0, ce_weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.weight = weight
        self.mine, self.theirs = aligned(student, teacher)[-1]
        self.forms = student.form(self.mine), teacher.form(self.theirs)

    def needs(self) -> Needs:
        return Needs(student=frozenset({self.mine}), teacher=frozenset({self.theirs}), whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        features = student[self.mine], teacher[self.theirs]
        mine, theirs = (as_map(feature, form) for feature, form in zip(features, self.forms, strict=True))
        return {"similarity": self.weight * similarity_loss(mine, theirs)}
