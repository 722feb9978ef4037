"""Networks by name: families of names, each with the builder that turns one into a chain."""

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
    """A family of networks: a pattern that its names match, some of the names, and how one is built."""

    pattern: str
    names: tuple[str, ...]
    build: Builder


FAMILIES: list[Family] = []


def family(pattern: str, *names: str) -> Callable[[Builder], Builder]:
    """A decorator for a builder of networks; ``names`` are those that are listed, ``pattern`` all that it can build."""

    def add(build: Builder) -> Builder:
        taken = {name for other in FAMILIES for name in other.names} & set(names)
        if taken:
            raise Refusal(f"network '{min(taken)}' is already registered: a name must be given once")
        FAMILIES.append(Family(pattern, names, build))
        return build

    return add


def network(name: str) -> Callable[[Callable[[int, Image], Chain]], Callable[[int, Image], Chain]]:
    """A decorator for a single network: a function of the number of classes and the image's shape."""

    def add(build: Callable[[int, Image], Chain]) -> Callable[[int, Image], Chain]:
        family(re.escape(name), name)(lambda _, classes, image: build(classes, image))
        return build

    return add


@cache
def form(name: str, classes: int, image: Image) -> Chain:
    """The network of this name on the meta device, where its shapes cost nothing, seen to run from end to end; or a
    sentence about why there is none for such images."""
    try:
        with Shadow():
            chain = build(name, classes, image, device="meta")
            if not isinstance(chain, Chain):
                raise Refusal(f"{name} must be a Chain, got a {type(chain).__name__}")
            width = chain.forms[-1].channels
    except Refusal:
        raise
    except Exception as error:  # torch and a user's network have many ways of saying so
        raise Refusal(f"{name} cannot take images of {'x'.join(map(str, image))}: {in_a_sentence(error)}") from None
    if chain.image != image:
        raise Refusal(f"{name} must give its chain the image that it was given, {image}, got {chain.image}")
    if width != classes:
        raise Refusal(f"{name} must answer with {classes} logits, got {width}")
    return chain


def names() -> list[str]:
    return [name for member in FAMILIES for name in member.names]


def matching(name: str) -> tuple[Family, re.Match[str]] | None:
    """The family that a name belongs to, and how its pattern matches; a name that was given comes before a pattern."""
    for member in sorted(FAMILIES, key=lambda member: name not in member.names):
        if matched := re.fullmatch(member.pattern, name):
            return member, matched
    return None


def family_of(name: str) -> tuple[Family, re.Match[str]]:
    if found := matching(name):
        return found
    raise Refusal(f"unknown network '{name}'{nearest(name, names(), OWN)}")


def build(name: str, classes: int, image: Image, device: torch.device | str = "cpu") -> Chain:
    """The network of this name, freshly initialised from torch's random state; on ``meta`` it costs nothing."""
    member, matched = family_of(name)
    with torch.device(device):
        return member.build(matched, classes, image)
