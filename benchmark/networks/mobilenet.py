"""MobileNetV2 for small images, as the distillation field uses it: half width, ReLU, a head of 1280 channels."""

from torch import Tensor, nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, network
from kdbench.methods.chain import Chain

HEAD = 1280
# expansion, full width, number of blocks, stride of the first block
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STAGES = (1, 2, 4, 6)  # the groups that the classical taps follow


class InvertedResidual(nn.Module):
    """Expand, convolve per channel, project; no activation follows the sum."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.shortcut = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            *(nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *(
                nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(),
            ),
            *(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    @property
    def last_norm(self) -> nn.Module:
        return self.conv[-1]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """The modules of a stem, seven groups of blocks, a head and a classifier."""

    def __init__(self, factor: float, classes: int, channels: int) -> None:
        super().__init__()
        width_in = int(32 * factor)
        self.conv1 = _convolution(channels, width_in, 3, stride=2)
        self.blocks = nn.Sequential()
        for expansion, full, count, stride in GROUPS:
            width = int(full * factor)
            group = nn.Sequential(InvertedResidual(width_in, width, stride, expansion))
            group.extend(InvertedResidual(width, width, 1, expansion) for _ in range(count - 1))
            self.blocks.append(group)
            width_in = width
        self.conv2 = _convolution(width_in, HEAD, 1)
        linear = nn.Linear(HEAD, classes)
        self.classifier = nn.Sequential(linear)
        initialise(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)


def _convolution(width_in: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


@network("MobileNetV2")
def mobilenet(classes: int, image: Image) -> Chain:
    """Half width, and a stem with stride 2; the taps are linear."""
    net = MobileNetV2(0.5, classes, image[0])
    links = list(net.conv1)
    stages = [len(links)]
    for number, group in enumerate(net.blocks):
        links += group.children()
        if number in STAGES:
            stages.append(len(links))
    links += [*net.conv2, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), *net.classifier]
    return Chain(net, links, stages=stages, image=image)
