"""Probabilistic knowledge transfer."""

import pytest
import torch

from kdbench.methods.relations.pkt import divergence
from tests.conftest import Golden


@pytest.mark.golden("PKT")
def test_the_divergence_is_the_published_codes(golden: Golden) -> None:
    # The sum is a 25th of its terms, which all but cancel: how they were rounded is the processor's.
    golden.check(divergence(golden["fs"], golden["ft"]), fp32=3e-5)


def test_only_directions_count() -> None:
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    lengths = torch.arange(1, 9).double()[:, None]
    assert abs(divergence(teacher * lengths, teacher)) < 1e-9
    assert divergence(teacher + lengths, teacher) > 1e-4
