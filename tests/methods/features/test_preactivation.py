"""Where a value stands before its activation."""

import pytest
from torch import nn

from kdbench.methods.chain import Chain
from kdbench.methods.features.preactivation import linear


@pytest.mark.parametrize(
    ("end", "depth"), [(nn.ReLU(), 1), (nn.SELU(), 1), (nn.Hardtanh(), 1), (nn.Softmax(1), 2), (nn.Identity(), 2)]
)
def test_without_a_norm_an_activation_is_stepped_over_and_nothing_else(end: nn.Module, depth: int) -> None:
    """A softmax, which torch files among them, says what a map attends to, and is no activation."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), end, nn.Flatten(), nn.Linear(4 * 36, 10))
    assert linear(Chain(net, net, stages=[2], image=(1, 8, 8)), 2) == depth
