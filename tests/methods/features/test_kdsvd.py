"""Singular vectors: their gradient, their signs, and what becomes of them where there are none to speak of."""

import pytest
import torch
from torch import Tensor

from kdbench.methods.features.kdsvd import first_vectors, singular_distance, singular_vectors
from tests.conftest import Golden
from tests.methods.features.golden_maps import stages


@pytest.mark.golden("KDSVD_k1_canonical_sign", "KDSVD_k1_signed")
def test_the_distance_is_the_fields_with_a_sign_agreed_upon(golden: Golden) -> None:
    golden.check(singular_distance(stages(golden)))


@pytest.mark.parametrize("size", [(5, 3, 3), (12, 2, 3)])
def test_the_gradient_of_singular_vectors_is_that_of_finite_differences(size: tuple[int, int, int]) -> None:
    """With fewer channels than positions, and with more."""
    torch.manual_seed(0)
    feature = torch.randn(2, *size, dtype=torch.float64, requires_grad=True)

    def projections(feature: Tensor) -> Tensor:
        vectors = singular_vectors(feature, 3)
        return vectors[..., None] * vectors[..., None, :]  # free of the sign

    vectors = singular_vectors(feature, 3)
    direction, step = torch.randn_like(feature), 1e-6
    weights = torch.randn_like(projections(feature))
    [gradient] = torch.autograd.grad((weights * projections(feature)).sum(), feature)
    with torch.no_grad():
        there, back = projections(feature + step * direction), projections(feature - step * direction)
    change = (weights * (there - back)).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(3).double().expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_channels_equal_values_and_empty_maps_have_a_finite_gradient(dtype: torch.dtype) -> None:
    dead = torch.randn(2, 6, 4, 4, dtype=dtype)
    dead[:, 1:] = 0
    equal = torch.eye(6, dtype=dtype).view(1, 6, 2, 3).expand(2, -1, -1, -1)
    for hard in (dead, equal.clone(), torch.zeros(2, 6, 4, 4, dtype=dtype)):
        hard.requires_grad_()
        teacher = torch.randn(2, 6, 4, 4, dtype=dtype)
        singular_distance([(hard, teacher), (hard, teacher)]).backward()
        assert hard.grad is not None and hard.grad.isfinite().all()


def test_vectors_agree_where_maps_differ_by_sign_and_scale_alone() -> None:
    teacher = torch.randn(2, 6, 4, 4)
    mine, theirs = first_vectors(-3 * teacher, teacher)
    torch.testing.assert_close(mine, theirs)
    assert (theirs.sum(2) > 0).all()
