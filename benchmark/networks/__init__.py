"""All classifiers, each as a chain of links."""

from kdbench.benchmark.networks import (  # noqa: F401  (the imports register the names)
    feature_only,
    mobilenet,
    resnet,
    resnet50,
    shufflenet,
    timms,
    vgg,
    wide_resnet,
)
from kdbench.benchmark.networks.registry import Image, build, family, family_of, form, matching, names, network

__all__ = ["Image", "build", "family", "family_of", "form", "matching", "names", "network"]
