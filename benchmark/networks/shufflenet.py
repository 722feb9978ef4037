"""ShuffleNet v1 and v2 for small images, as the distillation field uses them: a 1×1 stem and no max-pooling.

A block's last activation is a separate link. In v2 it acts on both halves. This changes nothing, because the half that
bypasses a block is already the output of an activation.
"""

import torch
from torch import Tensor, nn

from kdbench.benchmark.networks.registry import Image, network
from kdbench.methods.chain import Chain

GROUPS = 3
WIDTHS_1 = (240, 480, 960)
WIDTHS_2 = (116, 232, 464)
HEAD_2 = 1024
BLOCKS = (4, 8, 4)


class UnitV1(nn.Module):
    """Grouped 1×1 convolutions around a depthwise one; with stride 2 the shortcut is pooled and concatenated."""

    def __init__(self, width_in: int, width: int, stride: int, first_groups: int) -> None:
        super().__init__()
        self.stride = stride
        grown = width - width_in if stride == 2 else width
        inner = grown // 4
        self.conv1 = nn.Conv2d(width_in, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, grown, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(grown)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    @property
    def last_norm(self) -> nn.Module | None:
        return self.bn3 if self.stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return out + x if self.stride == 1 else torch.cat([out, self.pool(x)], 1)


class UnitV2(nn.Module):
    """Half of the channels bypass the block, the other half is convolved; then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passing, out = x.chunk(2, dim=1)
        out = self.bn3(self.conv3(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(out)))))))
        return self.shuffle(torch.cat([passing, out], 1))


class DownV2(nn.Module):
    """Half the size, more channels: both branches are convolved with stride 2."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(width_in, width_in, 3, 2, padding=1, groups=width_in, bias=False)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv2 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu(self.bn3(self.conv3(x)))))
        return self.shuffle(torch.cat([left, self.bn5(self.conv5(right))], 1))


class ShuffleNet(nn.Module):
    """The modules of a stem, three layers of units, an optional head and a classifier."""

    def __init__(self, layers: list[list[nn.Module]], widths: tuple[int, int], classes: int, channels: int) -> None:
        super().__init__()
        last, head = widths
        self.conv1 = nn.Conv2d(channels, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        for number, units in enumerate(layers, start=1):
            self.add_module(f"layer{number}", nn.Sequential(*units))
        if head != last:
            self.conv2 = nn.Conv2d(last, head, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, classes)


def _chain(layers: list[list[nn.Module]], widths: tuple[int, int], classes: int, image: Image) -> Chain:
    net = ShuffleNet(layers, widths, classes, image[0])
    links: list[nn.Module] = [net.conv1, net.bn1, nn.ReLU()]
    stages = [len(links)]
    for units in layers:
        for unit in units:
            links += [unit, nn.ReLU()]
        stages.append(len(links))
    if widths[0] != widths[1]:
        links += [net.conv2, net.bn2, nn.ReLU()]
    links += [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.linear]
    return Chain(net, links, stages=stages, image=image)


@network("ShuffleV1")
def shuffle_v1(classes: int, image: Image) -> Chain:
    """ShuffleNet v1 with three groups; the first convolution of the first unit is not grouped."""
    layers: list[list[nn.Module]] = []
    width_in = 24
    for width, count in zip(WIDTHS_1, BLOCKS, strict=True):
        first = UnitV1(width_in, width, 2, first_groups=1 if width_in == 24 else GROUPS)
        layers.append([first, *(UnitV1(width, width, 1, GROUPS) for _ in range(count - 1))])
        width_in = width
    return _chain(layers, (width_in, width_in), classes, image)


@network("ShuffleV2")
def shuffle_v2(classes: int, image: Image) -> Chain:
    """ShuffleNet v2 at full width."""
    layers: list[list[nn.Module]] = []
    width_in = 24
    for width, count in zip(WIDTHS_2, BLOCKS, strict=True):
        layers.append([DownV2(width_in, width), *(UnitV2(width) for _ in range(count - 1))])
        width_in = width
    return _chain(layers, (width_in, HEAD_2), classes, image)
