"""The forms of the values in a network, and conversions from one form to another."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.batch_norm import BatchNorm


@dataclass(frozen=True)
class Form:
    """The form of a value in a chain, without the batch dimension."""

    kind: Literal["map", "tokens", "vector"]  # (B, C, H, W) · (B, N, C) · (B, C)
    channels: int
    size: tuple[int, int] = (1, 1)  # height and width of the map, or of the grid that the tokens came from
    prefix: int = 0  # tokens before the grid: class, distillation

    def __str__(self) -> str:
        return f"{self.channels}@{self.size[0]}x{self.size[1]}" if self.kind != "vector" else str(self.channels)

    @property
    def positions(self) -> int:
        return math.prod(self.size)


def as_map(value: Tensor, form: Form) -> Tensor:
    """(B, C, H, W): tokens are placed on their grid, without the prefix; a vector is a map of one pixel."""
    match form.kind:
        case "map":
            return value
        case "tokens":
            return value[:, form.prefix :].transpose(1, 2).unflatten(2, form.size)
        case "vector":
            return value[:, :, None, None]


def resized(value: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at another size: averaged where it shrinks, its pixels repeated where it grows."""
    height, width = (min(now, then) for now, then in zip(value.shape[2:], size, strict=True))
    if (height, width) != tuple(value.shape[2:]):
        value = averaged(value, (height, width))
    return value if (height, width) == size else F.interpolate(value, size)


def averaged(value: Tensor, size: tuple[int, int]) -> Tensor:
    """A map averaged to a smaller size.

    Where the sizes divide, ordinary pooling gives the same bits, and its gradient is deterministic on a GPU too. To a
    single pixel, torch takes the mean, which is deterministic anyway.
    """
    (high, wide), (height, width) = value.shape[2:], size
    if high % height or wide % width or size == (1, 1):
        return F.adaptive_avg_pool2d(value, size)
    return F.avg_pool2d(value, (high // height, wide // width))


def smaller(one: Form, other: Form) -> tuple[int, int]:
    """The size at which two values can be compared without inventing values."""
    return min(one.size[0], other.size[0]), min(one.size[1], other.size[1])


class Adapter(nn.Module):
    """A learned map from values of one form to values of exactly another.

    A 1×1 convolution from channels to channels, shared by all positions, and batch norm behind it if ``norm`` is set. A
    larger map is averaged before the convolution, a smaller one is repeated after it. Tokens before the grid pass
    through the same projection. If the other network has a different number of them, each is the mean over the grid.
    """

    def __init__(self, source: Form, target: Form, *, bias: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.project = nn.Conv2d(source.channels, target.channels, 1, bias=bias)
        self.norm = BatchNorm(target.channels) if norm else nn.Identity()

    def forward(self, value: Tensor) -> Tensor:
        size = smaller(self.source, self.target)
        grid = resized(as_map(value, self.source), size)
        if not self._keeps_prefix:
            return self._formed(self.norm(self.project(grid)))
        prefix = value[:, : self.source.prefix].transpose(1, 2)
        line = torch.cat([prefix, grid.flatten(2)], 2)[..., None]  # a map one pixel wide
        prefix, grid = self.norm(self.project(line))[..., 0].split([self.source.prefix, math.prod(size)], 2)
        return self._formed(grid.unflatten(2, size), prefix)

    @property
    def _keeps_prefix(self) -> bool:
        return 0 < self.source.prefix == self.target.prefix

    def _formed(self, grid: Tensor, prefix: Tensor | None = None) -> Tensor:
        grid = resized(grid, self.target.size)
        match self.target.kind:
            case "map":
                return grid
            case "vector":
                return grid.flatten(1)
            case "tokens":
                mean = grid.mean((2, 3))[..., None].expand(-1, -1, self.target.prefix)
                return torch.cat([mean if prefix is None else prefix, grid.flatten(2)], 2).transpose(1, 2)
