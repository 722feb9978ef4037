"""Which images are kept."""

import torch

from kdbench.benchmark.incremental.exemplars import herded


def test_herding_takes_the_image_nearest_to_the_mean_first_and_then_mends_the_mean() -> None:
    # On the unit circle, at 0°, 40° and 90°: the mean lies near 43°.
    angles = torch.deg2rad(torch.tensor([0.0, 40.0, 90.0]))
    features = torch.stack([angles.cos(), angles.sin()], dim=1).double() * torch.tensor([[5.0], [1.0], [2.0]])
    assert herded(features, 3).tolist() == [1, 2, 0]


def test_no_image_is_kept_twice_and_no_more_than_there_are() -> None:
    assert sorted(herded(torch.ones(4, 3), 9).tolist()) == [0, 1, 2, 3]
