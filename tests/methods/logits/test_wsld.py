"""Weighted soft labels: no golden numbers exist, so they are held against their definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.logits.wsld import weighted_kl

LABELS = torch.tensor([0, 4, 2, 1, 3, 0])


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_value_and_gradient_follow_the_definition(logits: Tensor) -> None:
    s, t = logits
    mine = s.clone().requires_grad_()
    value = weighted_kl(mine, t, LABELS, 2.0)
    value.backward()

    total, gradient = 0.0, torch.zeros_like(s)
    for row in range(6):
        one = s[row : row + 1].clone().requires_grad_()
        ratio = F.cross_entropy(s[row], LABELS[row]) / F.cross_entropy(t[row], LABELS[row])
        weight = 1 - math.exp(-ratio)  # a plain number: the student cannot lower it to get rid of the term
        kl = weight * softened_kl(one, t[row : row + 1], 2.0) / 6
        kl.backward()
        total, gradient[row] = total + kl.item(), one.grad[0]
    assert value.item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(mine.grad, gradient, rtol=1e-6, atol=0)


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
