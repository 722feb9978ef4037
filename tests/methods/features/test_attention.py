"""Attention transfer: where a network looks, whatever its width and scale."""

import pytest
import torch
from torch import Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.features.attention import AttentionTransfer, attention_distance
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, seeded
from tests.methods.features.golden_maps import stages


@pytest.mark.golden("AT_p2")
def test_distances_sum_to_the_fields_loss(golden: Golden) -> None:
    total: Tensor = sum((attention_distance(*maps) for maps in stages(golden)), torch.zeros((), dtype=golden.dtype))
    golden.check(total)


def test_only_the_pattern_in_space_counts() -> None:
    student = torch.rand(2, 3, 4, 4)
    wider = torch.cat([student, -student], 1)
    assert attention_distance(student, 5 * wider) < 1e-12
    assert attention_distance(student, student.flip(2)) > 1e-4


def test_networks_that_never_share_two_positions_are_refused(teacher: Chain, facts: Facts) -> None:
    one_pixel = seeded("resnet8x0.25", 1)
    one_pixel.stages = (len(one_pixel) - 1,)
    with pytest.raises(Refusal, match="at: some stage must have more than one position in both networks, got 16 and"):
        AttentionTransfer(one_pixel, teacher, facts)
