"""Every method takes a step on every pair, or says why it cannot."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Generator

from kdbench.benchmark import networks
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Needs
from kdbench.refusal import Refusal
from tests.pairs import STANDARD

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)
VIT = "timm:vit_tiny_patch16_224"
PAIRS = [
    *((*pair, CIFAR) for pair in STANDARD),
    *(("fo_vit_ett", VIT, CIFAR), ("resnet56", "fo_vit_ett", CIFAR), ("fo_vit_ett", "resnet20", CIFAR)),
    *(("resnet14x2", "resnet8x0.25", DIGITS), ("fo_vit_ett", "resnet8x0.25", DIGITS)),
]

# What a method cannot do, and why a researcher would agree.
# (method, teacher): a part of the reason
INVALID = {("ofd", "VisionTransformer"): "the teacher's stages must end in batch norms"}


@dataclass
class Pair:
    teacher: Chain
    student: Chain
    facts: Facts
    batch: Batch
    heard: dict[tuple[object, ...], Trace] = field(default_factory=dict)

    def hear(self, needs: Needs, batch: Batch) -> Trace:
        """The teacher's answer, asked for at every depth and once in each manner that many methods share."""
        if needs.input_grad:
            return LiveTeacher(self.teacher, needs)(batch)
        manner = (needs.teacher_train, needs.views)
        if manner not in self.heard:
            depths = frozenset(range(len(self.teacher) + 1))
            everywhere = replace(needs, teacher=depths, teacher_embedding=True)
            self.heard[manner] = LiveTeacher(self.teacher, everywhere)(batch)
        return self.heard[manner]

    def seen(self, needs: Needs) -> Batch:
        views = self.batch.views * len(needs.views)
        return replace(self.batch, views=tuple(view.detach().requires_grad_(needs.input_grad) for view in views))


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0]}->{pair[1]}@{pair[2][1]}")
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    teacher, student, image = request.param
    classes = 10 if image == DIGITS else 100
    labels = torch.arange(3 * classes) % classes
    torch.manual_seed(0)
    yield Pair(
        networks.build(teacher, classes, image),
        networks.build(student, classes, image),
        Facts(classes, labels, batch=4, steps=5, epochs=2),
        Batch((torch.randn(4, *image),), labels[:4], torch.arange(4), torch.tensor(1.0), Generator().manual_seed(0)),
    )


@pytest.mark.parametrize("name", METHODS)
def test_takes_a_step(name: str, pair: Pair) -> None:
    try:
        method = create(name, pair.student, pair.teacher, pair.facts)
    except Refusal as refusal:
        assert INVALID.get((name, type(pair.teacher.network).__name__), "no such reason") in str(refusal)
        return
    needs = method.needs()
    for phase in [*(phase.name for phase in method.phases), "main"]:
        batch = replace(pair.seen(needs), phase=phase)
        step = Step(pair.student, method)
        step.zero_grad()
        terms = step(batch, pair.hear(needs, batch))
        total = sum(terms.values())
        assert total.isfinite() and all(value.isfinite() for value in terms.values())
        total.backward()
    gradients = [p.grad for p in pair.student.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
