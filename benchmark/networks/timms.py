"""The networks of timm. It takes half a second to import, so the first network that is built imports it."""

import re

from kdbench.benchmark.networks.registry import Image, family
from kdbench.methods.chain import Chain

LISTED = (
    *("resnet18", "resnet50", "vgg11_bn", "densenet121", "mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0"),
    *(
        "convnext_atto",
        "regnety_002",
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
    ),
    *("swin_tiny_patch4_window7_224", "mixer_s16_224"),
)


@family(r"timm:(?P<model>.+)", *(f"timm:{name}" for name in LISTED))
def by_name(name: re.Match[str], classes: int, image: Image) -> Chain:
    """``timm:NAME`` is any timm classifier, untrained, with the data set's image size and number of classes."""
    from kdbench.benchmark.networks import from_timm

    return from_timm.chained(from_timm.create(name["model"], classes, image), image)
