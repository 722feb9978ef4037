"""Norm and direction: Wang, Cheng, Duan, Wang, Feng and Kong, "Improving Knowledge Distillation via Regularizing
Feature Norm and Direction" (2023, arXiv 2305.17007)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs


def norm_direction_loss(student: Tensor, teacher: Tensor, centres: Tensor) -> Tensor:
    """1 − ⟨z_s, c/‖c‖⟩ / max(‖z_s‖, ‖z_t‖), averaged over the batch; ``centres`` has the c of each image."""
    longer = torch.maximum(student.norm(dim=1), teacher.norm(dim=1)).clamp(min=1e-12)
    return (1 - (student * F.normalize(centres, dim=1)).sum(1) / longer).mean()


@METHODS.register("norm_direction")
class NormDirection(Method):
    """The embedding points towards the teacher's mean for the class, and is no shorter than the teacher's.

        L = ce_weight · CE + weight · L_ND, L_ND = 1 − ⟨z_s, c_y/‖c_y‖⟩ / max(‖z_s‖, ‖z_t‖)

    z are the embeddings, and c_y is the mean of the teacher's over class y. While the student's is the shorter one, it
    gains by growing along c_y. Once it is the longer one, only its direction counts.

    The paper adds this term to another method: ``kd+norm_direction`` is its KD++, ``dkd+norm_direction`` its DKD++. Its
    code sets the weights of both per pair: this one's between 0.5 and 4, KD's between 1 and 4. It also lets KD's weight
    grow over 20 epochs. Here KD's weight is 0.9 unless given. The default of 1 for this term is that code's default.

    Choices of ours:

    - The paper computes c_y beforehand, from the whole training set (its code from one augmented pass). Here c_y is the
      mean over the images of class y seen in training so far, augmented, the current batch included. It is a rough
      estimate in the first steps, and as good as the paper's after an epoch.
    - Where the widths differ, the authors' code passes the student's embedding through batch norm, dropout and a linear
      map with a bias, for this term only. Here it is only a linear map without a bias.
    """

    source = "features"
    sums: Tensor

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 1.0, ce_weight: float = 1.0
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.weight = weight
        widths = student.embedding_width, teacher.embedding_width
        self.project = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)
        self.register_buffer("sums", torch.zeros(facts.classes, widths[1]))  # per class: its mean times a factor

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True, labels=True, whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        members = batch.labels == torch.arange(len(self.sums), device=self.sums.device)[:, None]
        self.sums += members.to(self.sums.dtype) @ teacher.embedding
        loss = norm_direction_loss(self.project(student.embedding), teacher.embedding, self.sums[batch.labels])
        return {"norm_direction": self.weight * loss}
