"""Neuron selectivity transfer: the channels of two networks as two samples of one distribution."""

import pytest
import torch
from torch import Tensor

from kdbench.methods.features.nst import mean_kernel, selectivity_distance
from tests.conftest import Golden
from tests.methods.features.golden_maps import stages


@pytest.mark.golden("NST")
def test_distances_sum_to_the_fields_loss(golden: Golden) -> None:
    total: Tensor = sum((selectivity_distance(*maps) for maps in stages(golden)), torch.zeros((), dtype=golden.dtype))
    golden.check(total)


@pytest.mark.parametrize("positions", [3, 50])
def test_the_kernels_mean_is_the_same_whichever_matrix_is_smaller(positions: int) -> None:
    one, other = torch.randn(2, 8, positions).double(), torch.randn(2, 5, positions).double()
    expected = torch.stack([(x @ y) ** 2 for a, b in zip(one, other, strict=True) for x in a for y in b]).mean()
    torch.testing.assert_close(mean_kernel(one, other), expected)


def test_neither_order_nor_number_nor_scale_of_channels_counts() -> None:
    student = torch.randn(2, 3, 4, 4).double()
    teacher = 7 * torch.cat([student, student], 1)[:, torch.randperm(6)]
    assert selectivity_distance(student, teacher).abs() < 1e-12
    assert selectivity_distance(student, teacher.flip(3)) > 1e-4
