"""CLKD against golden numbers and against the definition, written out as loops in NumPy."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdbench.methods.chain import Chain
from kdbench.methods.logits.clkd import CLKD, Correlation, Reduction, correlation_distance, normalised_distance
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch
from tests.methods.logits.traces import trace

Logits = NDArray[np.float64]


@pytest.mark.golden("CLKD_instance_element_mean")
def test_instance_term_by_elements(golden: Golden) -> None:
    golden.check(normalised_distance(golden["zs"], golden["zt"], dim=1, reduction="element"))


@pytest.mark.golden("CLKD_instance_per_sample_sum")
def test_instance_term_by_samples(golden: Golden) -> None:
    golden.check(normalised_distance(golden["zs"], golden["zt"], dim=1, reduction="sample"))


@pytest.mark.golden("CLKD_class_element_mean")
def test_class_term_by_elements(golden: Golden) -> None:
    golden.check(normalised_distance(golden["zs"], golden["zt"], dim=0, reduction="element"))


@pytest.mark.golden("CLKD_class_per_sample_sum")
def test_class_term_by_classes(golden: Golden) -> None:
    golden.check(normalised_distance(golden["zs"], golden["zt"], dim=0, reduction="sample"))


@pytest.mark.golden("CLKD_correlation")
def test_correlation_of_classes(golden: Golden) -> None:
    golden.check(correlation_distance(golden["zs"], golden["zt"], "classes"))


@pytest.mark.golden("CLKD_correlation")
def test_correlation_of_samples(golden: Golden) -> None:
    """The golden entry knows this reading's value from another implementation, and not its gradient."""
    others: dict[str, Any] = golden.entry["other_implementations"]
    (expected,) = [other["value64"] for name, other in others.items() if "B x B" in name]
    value = correlation_distance(golden["zs"], golden["zt"], "samples")
    assert value.item() == pytest.approx(expected, rel=golden.tolerance, abs=0)


# -- by the definition ------------------------------------------------------------------------------------------------


def apart(vectors: list[Logits], references: list[Logits], reduction: Reduction) -> float:
    total = 0.0
    for vector, reference in zip(vectors, references, strict=True):
        for a, b in zip(vector / np.sqrt(sum(vector**2)), reference / np.sqrt(sum(reference**2)), strict=True):
            total += (a - b) ** 2
    return total / len(vectors) if reduction == "sample" else total / (len(vectors) * len(vectors[0]))


def covariance(z: Logits, correlation: Correlation) -> Logits:
    samples, classes = z.shape
    centred = [z[:, c] - sum(z[:, c]) / samples for c in range(classes)]
    if correlation == "coefficients":
        centred = [column / np.sqrt(sum(column**2)) for column in centred]
    if correlation in ("classes", "coefficients"):
        matrix = np.zeros((classes, classes))
        for c in range(classes):
            for d in range(classes):
                matrix[c, d] = sum(centred[c][b] * centred[d][b] for b in range(samples))
        matrix /= samples - 1 if correlation == "classes" else 1
    else:
        matrix = np.zeros((samples, samples))
        for column in centred:
            matrix += np.outer(column, column) / (classes - 1)
    return matrix


@pytest.mark.parametrize("reduction", get_args(Reduction))
@pytest.mark.parametrize("correlation", get_args(Correlation))
def test_terms_follow_the_definition(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, reduction: Reduction, correlation: Correlation
) -> None:
    draw = np.random.default_rng(0)
    s, t = draw.normal(1, 2, (7, 5)), draw.normal(0, 3, (7, 5))
    weights = {"mu": 0.3, "beta": 1.7, "nu": 0.2}
    method = CLKD(student, teacher, facts, reduction=reduction, correlation=correlation, **weights)
    terms = method.losses(trace(torch.tensor(s)), trace(torch.tensor(t)), make_batch())

    difference = covariance(s, correlation) - covariance(t, correlation)
    expected = {
        "instance": 0.3 * apart(list(s), list(t), reduction),
        "class": 0.3 * 1.7 * apart(list(s.T), list(t.T), reduction),
        "correlation": 0.2 * sum(value**2 for row in difference for value in row) / 5**2,
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-12)


# -- behaviour --------------------------------------------------------------------------------------------------------


def test_normalised_terms_and_coefficients_do_not_see_the_scale_and_covariances_do() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(8, 5, generator=draw, dtype=torch.float64)
    for dim in (0, 1):
        assert normalised_distance(3 * z, z, dim, "sample") < 1e-30
    for correlation in get_args(Correlation):
        assert (correlation_distance(3 * z, z, correlation) > 1) == (correlation != "coefficients")
        assert correlation_distance(z + torch.randn(5, generator=draw), z, correlation) < 1e-25  # an offset per class


@pytest.mark.parametrize("correlation", get_args(Correlation))
def test_a_last_batch_of_one_image_is_learned_from(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, correlation: Correlation
) -> None:
    z = torch.randn(1, 10, requires_grad=True)
    terms = CLKD(student, teacher, facts, correlation=correlation).losses(
        trace(z), trace(torch.randn(1, 10)), make_batch()
    )
    assert terms["correlation"] == 0
    sum(terms.values()).backward()
    assert z.grad.isfinite().all()
