"""The residual networks of the CIFAR literature (He et al. 2016), and the wider variants of the distillation field.

Shortcuts are 1×1 convolutions with batch norm wherever the shape changes. Keys, shapes and outputs are those of the
checkpoints that the field shares. An activation after a sum is a separate link.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, family
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the activation after the sum is left to the chain."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut


class ResNet(nn.Module):
    """The modules of a stem, residual stages and a classifier; ``widths`` are those of the stem and the stages."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = []
        for number, (count, (width_in, width)) in enumerate(zip(blocks, pairwise(widths), strict=True), start=1):
            rest = [BasicBlock(width, width, 1) for _ in range(count - 1)]
            stage = nn.Sequential(BasicBlock(width_in, width, stride=1 if number == 1 else 2), *rest)
            self.add_module(f"layer{number}", stage)
            self.stages.append(stage)
        self.fc = nn.Linear(widths[-1], classes)


def chained(net: ResNet, image: Image, pooling: Sequence[nn.Module] = ()) -> Chain:
    """The chain of a ResNet; the classical taps are after the stem, before any pooling, and after every stage."""
    links: list[nn.Module] = [net.conv1, net.bn1, nn.ReLU()]
    stages = [len(links)]
    links += pooling
    for stage in net.stages:
        for block in stage:
            links += [block, nn.ReLU()]
        stages.append(len(links))
    links += [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.fc]
    return Chain(net, links, stages=stages, image=image)


@family(
    r"resnet(?P<depth>\d+)(x(?P<factor>(0|[1-9]\d*)(\.\d+)?))?",
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet8x0.25", "resnet14x2", "resnet8x4", "resnet32x4"),
)
def resnet(name: re.Match[str], classes: int, image: Image) -> Chain:
    """``resnet<depth>`` has widths of 16-16-32-64; ``x<factor>`` multiplies them, above 1 the stem's by less."""
    blocks, odd = divmod(int(name["depth"]) - 2, 6)
    factor = float(name["factor"] or 1)
    if odd or not 1 <= blocks <= 500 or not 1 <= 16 * factor <= 16_000:
        raise Refusal(f"a resnet's depth must be 6n + 2 and its widths from 1 to a few thousand, got '{name[0]}'")
    # The stem of wide networks is half as wide as their first stage, but never narrower than in plain networks.
    stem = int(min(16 * factor, max(16, 8 * factor)))
    widths = (stem, int(16 * factor), int(32 * factor), int(64 * factor))
    return chained(initialise(ResNet([blocks] * 3, widths, classes, image[0])), image)
