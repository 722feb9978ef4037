"""Logits weighted by gradients."""

import numpy as np
import pytest
import torch

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.gradients.fisher import diagonal_form, logits_diagonal, logits_form
from kdbench.methods.gradients.weighted_logits import WeightedLogits
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch


@pytest.mark.golden("GradKD_logits_identity")
def test_plain_is_half_the_square(golden: Golden) -> None:
    golden.check(diagonal_form(golden["zs"], golden["zt"], torch.ones_like(golden["zt"])))


@pytest.mark.golden("GradKD_logits_diag")
def test_diagonal_weighs_by_the_predictions_variance(golden: Golden) -> None:
    golden.check(diagonal_form(golden["zs"], golden["zt"], logits_diagonal(golden["zt"].softmax(1))))


@pytest.mark.golden("GradKD_logits_full")
def test_full_is_the_form_of_the_whole_fisher_information(golden: Golden) -> None:
    golden.check(logits_form(golden["zs"], golden["zt"], golden["zt"].softmax(1)))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("weighting", ["plain", "diagonal", "full"])
def test_losses_are_the_formula(
    weighting: str, normalise: bool, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = WeightedLogits(student, teacher, facts, weighting=weighting, normalise=normalise, weight=3.0)
    zs, zt = torch.randn(2, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = method.losses(Trace(zs, zs), Trace(zt, zt), make_batch())["logits"]

    d = (zs - zt).numpy()
    p = np.exp(zt.numpy()) / np.exp(zt.numpy()).sum(1, keepdims=True)
    fisher = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    matrices = {
        "plain": np.stack([np.eye(10)] * 8),
        "diagonal": np.stack([np.diag(np.diag(f)) for f in fisher]),
        "full": fisher,
    }[weighting]
    expected = 3 * np.mean([0.5 * row @ matrix @ row for row, matrix in zip(d, matrices, strict=True)])
    if normalise:
        expected /= np.mean([np.trace(matrix) for matrix in matrices])
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_images_are_related_only_by_the_mean_of_weights_that_differ(
    student: Chain, teacher: Chain, facts: Facts
) -> None:
    def related(weighting: str, normalise: bool) -> bool:
        method = WeightedLogits(student, teacher, facts, weighting=weighting, normalise=normalise)
        return method.needs().whole_batch

    assert related("diagonal", True) and related("full", True)
    assert not related("plain", True) and not related("diagonal", False) and not related("full", False)
