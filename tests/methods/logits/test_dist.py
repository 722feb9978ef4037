"""DIST."""

import pytest
import torch

from kdbench.methods.chain import Chain
from kdbench.methods.logits.dist import DIST, pearson, uncorrelated
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch
from tests.methods.logits.traces import trace


@pytest.mark.golden("DIST_tau1", "DIST_tau4")
def test_both_relations_and_their_sum(golden: Golden) -> None:
    inter, intra = uncorrelated(golden["zs"], golden["zt"], golden.parameters["tau"])
    assert inter.item() == pytest.approx(golden.entry["parts64"]["inter"], rel=golden.tolerance)
    assert intra.item() == pytest.approx(golden.entry["parts64"]["intra"], rel=golden.tolerance)
    golden.check(inter + intra)


def test_correlation_does_not_see_scale_and_offset() -> None:
    a = torch.randn(3, 50, dtype=torch.float64)
    torch.testing.assert_close(pearson(a, -3 * a + 2, 1), -torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(pearson(a, a.roll(1, 1), 1), torch.stack([torch.corrcoef(x)[0, 1] for x in pairs(a)]))


def pairs(a: torch.Tensor) -> torch.Tensor:
    return torch.stack([a, a.roll(1, 1)], dim=1)


def test_a_class_that_no_sample_is_given_leaves_gradients_finite(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    """Its column of probabilities is constant zero, and a last batch may be a single image."""
    for samples in (8, 1):
        s, t = torch.randn(2, samples, 10)
        s[:, 3], t[:, 3] = -1e4, -1e4
        s.requires_grad_()
        terms = DIST(student, teacher, facts).losses(trace(s), trace(t), make_batch())
        sum(terms.values()).backward()
        assert s.grad.isfinite().all() and s.grad.any()
