"""ResNet-50 for small images, as the distillation field uses it: a 3×3 stem without stride or pooling."""

from torch import Tensor, nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, network
from kdbench.methods.chain import Chain

BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 ones, and a shortcut; the activation after the sum is left to the chain."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * EXPANSION
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class ResNet50(nn.Module):
    """The modules of a network with four stages of bottlenecks."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width_in = 64
        for number, blocks in enumerate(BLOCKS, start=1):
            width, stride = 32 * 2**number, 1 if number == 1 else 2
            rest = [Bottleneck(width * EXPANSION, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(Bottleneck(width_in, width, stride), *rest))
            width_in = width * EXPANSION
        self.linear = nn.Linear(width_in, classes)


@network("ResNet50")
def resnet50(classes: int, image: Image) -> Chain:
    """The teacher of the standard table's mixed pairs."""
    net = initialise(ResNet50(classes, image[0]))
    links: list[nn.Module] = [net.conv1, net.bn1, nn.ReLU()]
    stages = [len(links)]
    for number in range(1, len(BLOCKS) + 1):
        for block in net.get_submodule(f"layer{number}").children():
            links += [block, nn.ReLU()]
        stages.append(len(links))
    links += [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.linear]
    return Chain(net, links, stages=stages, image=image)
