"""Curriculum temperature."""

from dataclasses import replace

import pytest
import torch

from kdbench.methods.chain import Chain
from kdbench.methods.logits.ctkd import CTKD, reversed_gradient
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import Batch, Facts
from kdbench.methods.refusal import Refusal
from tests.conftest import MakeBatch
from tests.methods.logits.traces import trace


@pytest.fixture
def method(student: Chain, teacher: Chain, facts: Facts) -> CTKD:
    return CTKD(student, teacher, facts).double()


def at(epoch: float, batch: Batch) -> Batch:
    return replace(batch, epoch=torch.tensor(epoch))


def test_it_is_kd_at_the_learned_temperature(method: CTKD, make_batch: MakeBatch) -> None:
    s, t = torch.randn(2, 8, 10, dtype=torch.float64)
    with torch.no_grad():
        method.theta.fill_(-1.3)
    temperature = 1 + 20 / (1 + 2.718281828459045**1.3)
    value = method.losses(trace(s), trace(t), at(5.0, make_batch()))["kd"]
    torch.testing.assert_close(value, 0.9 * softened_kl(s, t, temperature))


@pytest.mark.parametrize(("epoch", "strength"), [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0), (100.0, 1.0)])
def test_the_temperature_climbs_the_loss_ever_more_steeply(
    method: CTKD, make_batch: MakeBatch, epoch: float, strength: float
) -> None:
    s, t = torch.randn(2, 8, 10, dtype=torch.float64)
    s.requires_grad_()
    method.losses(trace(s), trace(t), at(epoch, make_batch()))["kd"].backward()

    downhill = method.theta.detach().clone().requires_grad_()
    mine = s.detach().clone().requires_grad_()
    (0.9 * softened_kl(mine, t, 1 + 20 * downhill.sigmoid())).backward()
    torch.testing.assert_close(method.theta.grad, -strength * downhill.grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(s.grad, mine.grad)  # the student's is not reversed


def test_reversal_leaves_the_value_as_it_is() -> None:
    value = torch.randn(1000)
    assert torch.equal(reversed_gradient(value, torch.tensor(0.3)), value)


def test_temperatures_that_could_reach_zero_are_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="ctkd: lowest must be above 0"):
        CTKD(student, teacher, facts, lowest=0.0)
