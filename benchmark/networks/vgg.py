"""VGG with batch norm for small images, as the distillation field uses it: five blocks and one linear classifier.

Convolutions keep their biases. A block's last activation is outside the block, so the value before it can be tapped.
"""

import re
from itertools import pairwise

from torch import nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, family
from kdbench.methods.chain import Chain

CONVOLUTIONS = {
    "8": (1, 1, 1, 1, 1),
    "11": (1, 1, 2, 2, 2),
    "13": (2,) * 5,
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """The modules of the five blocks and the classifier."""

    def __init__(self, convolutions: tuple[int, ...], classes: int, channels: int) -> None:
        super().__init__()
        self.blocks = []
        for number, (count, (width_in, width)) in enumerate(
            zip(convolutions, pairwise((channels, *WIDTHS)), strict=True)
        ):
            layers: list[nn.Module] = []
            for layer in range(count):
                layers += [
                    nn.Conv2d(width if layer else width_in, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            block = nn.Sequential(*layers[:-1])
            self.add_module(f"block{number}", block)
            self.blocks.append(block)
        self.classifier = nn.Linear(WIDTHS[-1], classes)
        initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)


@family(r"vgg(?P<layers>8|11|13|16|19)", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19")
def vgg(name: re.Match[str], classes: int, image: Image) -> Chain:
    """``vgg<layers>``; the fourth pooling is omitted for images under 64 pixels."""
    net = VGG(CONVOLUTIONS[name["layers"]], classes, image[0])
    links: list[nn.Module] = []
    stages = []
    for number, block in enumerate(net.blocks):
        links += [*block, nn.ReLU()]
        stages.append(len(links))
        if number < 3 or (number == 3 and image[1] >= 64):
            links.append(nn.MaxPool2d(2))
    links += [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.classifier]
    return Chain(net, links, stages=stages, image=image)
