"""Weighted soft labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.logits.wsld import WSLD, weighted_kl
from kdbench.methods.method import Facts
from tests.conftest import Golden

LABELS = torch.tensor([0, 4, 2, 1, 3, 0])


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.golden("WSLD_T2", "WSLD_T4")
def test_the_loss_is_the_authors_less_the_teachers_entropy(golden: Golden) -> None:
    value = weighted_kl(golden["zs"], golden["zt"], golden["y"], golden.parameters["T"])
    golden.check(value + golden.entry["parts64"]["teacher_entropy"])


def test_the_defaults_are_those_of_cifar_100(student: Chain, teacher: Chain, facts: Facts) -> None:
    method = WSLD(student, teacher, facts)
    assert (method.weight, method.temperature) == (2.25, 4.0)


def test_a_sample_that_the_student_knows_better_weighs_little(logits: Tensor) -> None:
    s, t = logits
    knows = s + 20 * F.one_hot(LABELS, 5)
    lost = s - 20 * F.one_hot(LABELS, 5)
    assert weighted_kl(knows, t, LABELS, 2.0) < 1e-6 * softened_kl(knows, t, 2.0)
    assert weighted_kl(lost, t, LABELS, 2.0) > 0.99 * softened_kl(lost, t, 2.0)


def test_a_teacher_without_doubt_leaves_everything_finite(logits: Tensor) -> None:
    sure = 1e4 * F.one_hot(LABELS, 5).double()
    for s in (logits[0].clone().requires_grad_(), sure.clone().requires_grad_()):
        weighted_kl(s, sure, LABELS, 2.0).backward()
        assert s.grad.isfinite().all()
