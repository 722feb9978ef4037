"""Wide residual networks (Zagoruyko and Komodakis 2016), with pre-activation blocks.

If a block changes the width, its shortcut uses the block's first batch norm and activation too. There they are separate
links, so the value before the activation can be tapped. The classical taps are the raw residual sums.
"""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, family
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal


class PreActivationBlock(nn.Module):
    """Norm, activation, convolution, twice; with a convolutional shortcut, the chain applies the first two steps."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.convShortcut = None if width_in == width else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.convShortcut is None:
            shortcut, out = x, self.relu(self.bn1(x))
        else:  # the chain has already applied bn1 and the activation to x
            shortcut, out = self.convShortcut(x), x
        return self.conv2(self.relu(self.bn2(self.conv1(out)))) + shortcut


class Stage(nn.Module):
    """One layer of blocks."""

    def __init__(self, blocks: int, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        rest = [PreActivationBlock(width, width, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(PreActivationBlock(width_in, width, stride), *rest)

    def blocks(self) -> Iterator[PreActivationBlock]:
        return (block for block in self.layer if isinstance(block, PreActivationBlock))


class WideResNet(nn.Module):
    """The modules of a network with three stages of pre-activation blocks."""

    def __init__(self, blocks: int, widths: tuple[int, int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        stem, *stages = widths
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.block1 = Stage(blocks, stem, stages[0], stride=1)
        self.block2 = Stage(blocks, stages[0], stages[1], stride=2)
        self.block3 = Stage(blocks, stages[1], stages[2], stride=2)
        self.bn1 = nn.BatchNorm2d(stages[2])
        self.fc = nn.Linear(stages[2], classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)


@family(r"wrn_(?P<depth>\d+)_(?P<factor>\d+)", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2")
def wide_resnet(name: re.Match[str], classes: int, image: Image) -> Chain:
    """``wrn_<depth>_<factor>``: a stem of 16 channels, then 16, 32 and 64 times the factor."""
    blocks, odd = divmod(int(name["depth"]) - 4, 6)
    factor = int(name["factor"])
    if odd or not 1 <= blocks <= 500 or not 1 <= factor <= 1_000:
        raise Refusal(f"a wide resnet's depth must be 6n + 4 and its factor from 1 to 1000, got '{name[0]}'")
    net = WideResNet(blocks, (16, 16 * factor, 32 * factor, 64 * factor), classes, image[0])

    links: list[nn.Module] = [net.conv1]
    stages = [len(links)]
    for stage in (net.block1, net.block2, net.block3):
        for block in stage.blocks():
            if block.convShortcut is not None:
                links += [block.bn1, nn.ReLU()]
            links.append(block)
        stages.append(len(links))
    links += [net.bn1, nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.fc]
    return Chain(net, links, stages=stages, image=image)
