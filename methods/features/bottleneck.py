"""The projector of Chen et al. from one network to another: 1×1, 3×3 and 1×1 convolutions."""

from torch import nn

from kdbench.methods.batch_norm import BatchNorm


def bottleneck(width_in: int, middle: int, width: int) -> nn.Sequential:
    """From ``width_in`` to ``width`` channels; norm and activation behind all but the last convolution."""
    return nn.Sequential(
        *(nn.Conv2d(width_in, middle, 1, bias=False), BatchNorm(middle), nn.ReLU()),
        *(nn.Conv2d(middle, middle, 3, padding=1, bias=False), BatchNorm(middle), nn.ReLU()),
        nn.Conv2d(middle, width, 1, bias=False),
    )
