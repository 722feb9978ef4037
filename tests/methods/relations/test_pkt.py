"""Probabilistic knowledge transfer."""

import pytest
import torch

from kdbench.methods.relations.pkt import divergence
from tests.conftest import Golden


@pytest.mark.golden("PKT")
def test_the_divergence_is_the_published_codes(golden: Golden) -> None:
    if golden.dtype == torch.float32:
        golden.tolerance = 1e-4  # terms of both signs all but cancel: how they were rounded is the processor's
    golden.check(divergence(golden["fs"], golden["ft"]))


def test_only_directions_count() -> None:
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    lengths = torch.arange(1, 9).double()[:, None]
    assert abs(divergence(teacher * lengths, teacher)) < 1e-9
    assert divergence(teacher + lengths, teacher) > 1e-4
