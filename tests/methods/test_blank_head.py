"""A student may begin with a head of zeros, as the small ViT does: its logits are all alike then."""

import pytest
import torch

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import METHODS, Facts
from tests.conftest import MakeBatch


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.source in ("logits", "gradients")])
def test_the_first_gradient_of_a_blank_head_is_of_ordinary_size(
    name: str, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    for parameter in student.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    method = create(name, student, teacher, facts)
    batch = make_batch(method.needs())
    sum(Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch)).values()).backward()
    assert 0 < student.classifier.bias.grad.norm() < 100
