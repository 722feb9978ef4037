"""One training step on every pair that the field trains, and on pairs of timm's families."""

import pytest
import torch
from torch import Generator

from kdbench.benchmark import networks
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Batch, Facts
from tests.pairs import FEATURE_ONLY, STANDARD

TIMM = [
    ("timm:resnet18", "timm:vit_tiny_patch16_224"),  # CNN → ViT
    ("timm:densenet121", "timm:deit_tiny_distilled_patch16_224"),
    ("timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_100"),  # ViT → CNN
    ("timm:deit_tiny_distilled_patch16_224", "timm:resnet18"),
    ("timm:swin_tiny_patch4_window7_224", "timm:regnety_002"),
    ("timm:mixer_s16_224", "timm:convnext_atto"),
    ("timm:convnext_atto", "timm:mobilenetv2_100"),
    ("timm:efficientnet_b0", "timm:deit_tiny_patch16_224"),
    ("timm:resnetv2_50", "timm:efficientnet_b0"),  # of a family that is not cut
    ("timm:regnety_002", "resnet20"),
]
CLASSES, IMAGE, SIZE = 5, (3, 32, 32), 2


def step(student: Chain, teacher: Chain, method: str) -> dict[str, float]:
    """The terms of one step; their gradients are left in the student."""
    draw = Generator().manual_seed(0)
    labels = torch.arange(SIZE)
    made = create(method, student, teacher, Facts(CLASSES, labels, batch=SIZE, steps=1, epochs=1))
    images = torch.randn(SIZE, *IMAGE, generator=draw)
    batch = Batch((images,), labels, torch.arange(SIZE), torch.tensor(1.0), draw)
    answers = LiveTeacher(teacher, made.needs())(batch)
    student.zero_grad(set_to_none=True)
    terms = Step(student.train(), made)(batch, answers)
    torch.stack(list(terms.values())).sum().backward()
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("teacher_name", "student_name"), STANDARD + FEATURE_ONLY + TIMM)
def test_a_step_is_taken(teacher_name: str, student_name: str) -> None:
    torch.manual_seed(0)
    teacher, student = (networks.build(name, CLASSES, IMAGE) for name in (teacher_name, student_name))
    before = {key: value.clone() for key, value in teacher.network.named_buffers()}
    for method, expected in (("ce", {"task"}), ("kd", {"task", "kd"})):
        terms = step(student, teacher, method)
        assert set(terms) == expected
        assert all(0 <= value < 100 for value in terms.values()), terms
        gradients = {name: parameter.grad for name, parameter in student.network.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
        assert any(p.grad.any() for p in student.classifier.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.named_buffers())
