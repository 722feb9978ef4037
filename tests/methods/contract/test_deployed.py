"""A method can ship another network than the student."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.data import Dataset
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.training.evaluate import evaluate
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs
from tests.conftest import Learn


class Borrowed(nn.Module):
    """The student's backbone, an adapter, and the teacher's classifier."""

    def __init__(self, student: Chain, adapter: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.student, self.adapter, self.classifier = student, adapter, classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.adapter(self.student.trace(images).embedding))


class SimKD(Method):
    """The teacher's embedding alone, for the teacher's classifier."""

    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts, ce_weight=0.0)
        width = teacher.embedding_width
        self.adapter = nn.Sequential(nn.Linear(student.embedding_width, width), nn.BatchNorm1d(width))

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"embedding": F.mse_loss(self.adapter(student.embedding), teacher.embedding)}

    def deployed(self, student: Chain) -> nn.Module:
        return Borrowed(student, self.adapter, self.teacher.classifier)


def test_what_is_shipped_is_what_is_evaluated(
    student: Chain, teacher: Chain, facts: Facts, digits: Dataset, learn: Learn
) -> None:
    method = SimKD(student, teacher, facts)
    classifiers = [copy.deepcopy(chain.classifier.state_dict()) for chain in (student, teacher)]
    modes: list[bool] = []
    history = learn(student, teacher, method, watch=lambda _: modes.append(student.training and method.training))

    normalise = Normalise(digits, torch.device("cpu"))
    assert history[-1].score == evaluate(method.deployed(student), digits.test, normalise)
    assert history[-1].score != evaluate(student, digits.test, normalise)
    assert all(modes)  # an evaluation does not leave the next epoch in its mode
    # The teacher's classifier is borrowed as it is, and the student's own has learned nothing.
    for chain, before in zip((student, teacher), classifiers, strict=True):
        assert all(torch.equal(value, before[key]) for key, value in chain.classifier.state_dict().items())
