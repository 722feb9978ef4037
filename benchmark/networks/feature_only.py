"""The networks of the feature-only paper (Cooper et al. 2025), for images of 32 and 64 pixels.

The paper adapts ImageNet's architectures. The distillation field has smaller ones with nearly the same names, so these
have a prefix. Keys are torchvision's (timm's for the ViTs): ImageNet's weights fit wherever the shapes do. The layers
that the paper distils into its students are our ``stages`` without the stem.

As in the paper's code, images larger than CIFAR's are halved first: after the stem of a ResNet, in the stem of
MobileNetV2, by the patches of a ViT. A VGG is the same for all image sizes.
"""

import re
from typing import Any

from torch import Tensor, nn

from kdbench.benchmark.networks.initial import initialise
from kdbench.benchmark.networks.registry import Image, family, network
from kdbench.benchmark.networks.resnet import BasicBlock, ResNet, chained
from kdbench.methods.chain import Chain

RESNETS = {"9": (1, 1, 1, 1), "34": (3, 4, 6, 3)}
VGGS = {"11": "A", "19": "E"}  # torchvision's letters
LAST_OF_RESOLUTION = (0, 3, 6, 13, 17)  # MobileNetV2's blocks; 0 is the stem


def large(image: Image) -> bool:
    """Whether images are larger than CIFAR's."""
    return max(image[1:]) > 32


class VGG(nn.Module):
    """The modules of torchvision's VGG with batch norm, with a head for maps that are pooled to a single pixel."""

    def __init__(self, letter: str, classes: int, channels: int) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        self.features = make_layers(cfgs[letter], batch_norm=True)
        self.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
        self.classifier = nn.Sequential(
            *(nn.Linear(512, 4096), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(4096, classes),
        )
        initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)


@family(r"fo_resnet(?P<layers>9|34)", "fo_resnet9", "fo_resnet34")
def resnet(name: re.Match[str], classes: int, image: Image) -> Chain:
    """A 3×3 stem without stride, a pooling after it if images are large, and four stages.

    At initialisation, every block computes only its shortcut.
    """
    net = initialise(ResNet(RESNETS[name["layers"]], (64, 64, 128, 256, 512), classes, image[0]))
    for block in net.modules():
        if isinstance(block, BasicBlock):
            nn.init.zeros_(block.bn2.weight)
    return chained(net, image, [nn.MaxPool2d(3, 2, padding=1)] if large(image) else [])


@family(r"fo_vgg(?P<layers>11|19)", "fo_vgg11", "fo_vgg19")
def vgg(name: re.Match[str], classes: int, image: Image) -> Chain:
    """All five poolings, and a head of two wide layers with dropout; the taps are before the poolings."""
    net = VGG(VGGS[name["layers"]], classes, image[0])
    stages = [depth for depth, module in enumerate(net.features) if isinstance(module, nn.MaxPool2d)]
    *layers, dropout, linear = net.classifier
    pool, head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential(dropout, linear)
    links = [*net.features, pool, *layers, head]
    return Chain(net, links, stages=stages, image=image)


@network("fo_mobilenetv2")
def mobilenet(classes: int, image: Image) -> Chain:
    """Full width and ReLU6; the stem has a stride if images are large; the classifier has no dropout."""
    from torchvision.models import MobileNetV2

    net = MobileNetV2(num_classes=classes, dropout=0)
    net.features[0][0] = initialise(nn.Conv2d(image[0], 32, 3, 2 if large(image) else 1, padding=1, bias=False))
    stem, *blocks, head = net.features
    pool, (_, linear) = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.classifier
    stages = [len(stem) + block for block in LAST_OF_RESOLUTION]
    norms = {depth: block.conv[-1] for depth, block in enumerate(blocks, len(stem) + 1)}
    return Chain(net, [*stem, *blocks, *head, pool, linear], stages=stages, image=image, norms=norms)


@network("fo_vit_b")
def vit_b(classes: int, image: Image) -> Chain:
    """ViT-B with patches of 4 pixels, or of 8 if images are large."""
    return _vit(classes, image, embed_dim=768, depth=12, num_heads=12)


@network("fo_vit_ett")
def vit_ett(classes: int, image: Image) -> Chain:
    """The small ViT."""
    return _vit(classes, image, embed_dim=192, depth=8, num_heads=6, mlp_ratio=3)


def _vit(classes: int, image: Image, **shape: Any) -> Chain:
    """As in the paper's code, the embedding is the mean of all tokens after the last norm, including the class token.

    The classifier's weights start at zero.
    """
    from timm.models.vision_transformer import VisionTransformer

    from kdbench.benchmark.networks.from_timm import chained

    patch = 8 if large(image) else 4
    net = VisionTransformer(img_size=image[1:], patch_size=patch, in_chans=image[0], num_classes=classes, **shape)
    net.pool = _mean_of_tokens  # type: ignore[assignment, method-assign]
    chain = chained(net, image)
    nn.init.zeros_(chain.classifier.get_parameter("weight"))
    return chain


def _mean_of_tokens(tokens: Tensor) -> Tensor:
    return tokens.mean(dim=1)
