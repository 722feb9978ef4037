"""Decoupled KD."""

from dataclasses import replace

import pytest
import torch

from kdbench.methods.chain import Chain
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.logits.dkd import DKD, decoupled
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch
from tests.methods.logits.traces import trace


@pytest.mark.golden("DKD")
def test_both_parts_and_their_sum(golden: Golden) -> None:
    parameters = golden.parameters
    target, rest = decoupled(golden["zs"], golden["zt"], golden["y"], parameters["T"])
    assert target.item() == pytest.approx(golden.entry["parts64"]["tckd"], rel=golden.tolerance)
    assert rest.item() == pytest.approx(golden.entry["parts64"]["nckd"], rel=golden.tolerance)
    golden.check(parameters["alpha"] * target + parameters["beta"] * rest)


def test_the_parts_are_what_kd_is_made_of() -> None:
    """KL = target + (1 − p_t) · others, sample by sample."""
    draw = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 1, 6, generator=draw, dtype=torch.float64)
    label = torch.tensor([2])
    target, rest = decoupled(s, t, label, 3.0)
    wrong = 1 - (t / 3).softmax(1)[0, 2]
    torch.testing.assert_close(target + wrong * rest, softened_kl(s, t, 3.0))


def test_terms_grow_over_the_warm_up(student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch) -> None:
    method, batch = DKD(student, teacher, facts, alpha=2.0, beta=3.0, warmup=4), make_batch()
    s, t = torch.randn(2, 8, 10)
    target, rest = decoupled(s, t, batch.labels, 4.0)
    for epoch, share in ((1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)):
        terms = method.losses(trace(s), trace(t), replace(batch, epoch=torch.tensor(float(epoch))))
        torch.testing.assert_close(terms, {"target": share * 2 * target, "others": share * 3 * rest})
