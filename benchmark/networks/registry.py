"""Networks by name: families of names, each with a builder that turns a name into a chain."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch

from kdbench.methods.chain import Chain
from kdbench.methods.shadow import Shadow
from kdbench.refusal import OWN, Refusal, in_a_sentence, nearest

Image = tuple[int, int, int]  # channels, height, width


class Builder(Protocol):
    def __call__(self, name: re.Match[str], classes: int, image: Image) -> Chain: ...


@dataclass(frozen=True)
class Family:
    """A family of networks: a pattern for its names, the names to list, and a builder."""

    pattern: str
    names: tuple[str, ...]
    build: Builder


FAMILIES: list[Family] = []


def family(pattern: str, *names: str) -> Callable[[Builder], Builder]:
    """Decorator for a builder of networks; ``pattern`` matches all names that it can build, ``names`` are listed."""

    def add(build: Builder) -> Builder:
        taken = {name for other in FAMILIES for name in other.names} & set(names)
        if taken:
            raise Refusal(f"network '{min(taken)}' is already registered: a name must be given once")
        FAMILIES.append(Family(pattern, names, build))
        return build

    return add


def network(name: str) -> Callable[[Callable[[int, Image], Chain]], Callable[[int, Image], Chain]]:
    """Decorator for a single network: a function of the number of classes and the image's shape."""

    def add(build: Callable[[int, Image], Chain]) -> Callable[[int, Image], Chain]:
        family(re.escape(name), name)(lambda _, classes, image: build(classes, image))
        return build

    return add


@cache
def form(name: str, classes: int, image: Image) -> Chain:
    """The network with this name on the meta device, where it costs nothing, checked by a full forward pass.

    Raises a Refusal that says why, if the network cannot take such images.
    """
    try:
        with Shadow():
            chain = build(name, classes, image, device="meta")
            if not isinstance(chain, Chain):
                raise Refusal(f"{name} must be a Chain, got a {type(chain).__name__}")
            width = chain.forms[-1].channels
    except Refusal:
        raise
    except Exception as error:  # torch and a user's network raise many kinds of errors
        raise Refusal(f"{name} cannot take images of {'x'.join(map(str, image))}: {in_a_sentence(error)}") from None
    if chain.image != image:
        raise Refusal(f"{name} must pass the given image to its chain, {image}, got {chain.image}")
    if width != classes:
        raise Refusal(f"{name} must return {classes} logits, got {width}")
    return chain


def names() -> list[str]:
    return [name for member in FAMILIES for name in member.names]


def matching(name: str) -> tuple[Family, re.Match[str]] | None:
    """The family of a name, and the match of its pattern; a listed name takes precedence over a pattern."""
    for member in sorted(FAMILIES, key=lambda member: name not in member.names):
        if matched := re.fullmatch(member.pattern, name):
            return member, matched
    return None


def family_of(name: str) -> tuple[Family, re.Match[str]]:
    if found := matching(name):
        return found
    raise Refusal(f"unknown network '{name}'{nearest(name, names(), OWN)}")


def build(name: str, classes: int, image: Image, device: torch.device | str = "cpu") -> Chain:
    """Build a network, freshly initialised from torch's random state; on ``meta`` it costs nothing."""
    member, matched = family_of(name)
    with torch.device(device):
        return member.build(matched, classes, image)
