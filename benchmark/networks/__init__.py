"""Every classifier as a chain of links."""

from kdbench.benchmark.networks import (  # noqa: F401  (their names register themselves)
    feature_only,
    mobilenet,
    resnet,
    resnet50,
    shufflenet,
    timms,
    vgg,
    wide_resnet,
)
from kdbench.benchmark.networks.registry import Image, build, family, family_of, form, names, network

__all__ = ["Image", "build", "family", "family_of", "form", "names", "network"]
