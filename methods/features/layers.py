"""A network's layers as the feature-only paper numbers them, and the four that are distilled by default.

The paper's networks are cut at every activation outside a block, at every block (residual, inverted residual, encoder),
and where the maps become a vector. Layers count from 0. Layer 0 is the activation of a stem, or a ViT's patch
embedding. ResNet34 has its 16 blocks as layers 1 to 16, VGG19 its convolutions as 0 to 15, ViT-B its blocks as 1 to 12.
Here a layer is found by what a link consists of, so every chain has layers. A downsampling module between blocks counts
as one more. The activation behind a residual sum belongs to its block.
"""

from torch import nn

from kdbench.methods.chain import Chain
from kdbench.methods.features.preactivation import ACTIVATIONS
from kdbench.refusal import Refusal

PAIRS = 4


def layers(chain: Chain) -> list[int]:
    """The depth at which each layer ends, without the classifier."""
    depths: list[int] = []
    for depth, link in enumerate(chain.links[:-1], start=1):
        before, after = chain.form(depth - 1).kind, chain.form(depth).kind
        if isinstance(link, ACTIVATIONS):
            if depths[-1:] == [depth - 1] and _is_block(chain.links[depth - 2]):
                depths.pop()
            depths.append(depth)
        elif (before, after) == ("map", "vector") or (after != "vector" and _is_block(link)):
            depths.append(depth)
    if not depths:
        raise Refusal(f"{type(chain.network).__name__} has no layers whose features could be distilled")
    return depths


def standard(chain: Chain, count: int = PAIRS) -> tuple[int, ...]:
    """The numbers of the layers that are distilled by default.

    They are the last ones that end a stage. A network without stages, such as a ViT, is tapped in the middle of each
    quarter of its blocks. These are the paper's lists for all four of its students, and its standard lists for all
    three teachers.
    """
    ends = layers(chain)
    stages = [number for number, depth in enumerate(ends) if depth in chain.stages]
    sizes = {chain.form(ends[number]).size for number in stages}
    if len(sizes) > 1 and len(stages) >= count:
        return tuple(stages[-count:])
    before_pooling = [number for number, depth in enumerate(ends) if chain.form(depth).kind != "vector"]
    if len(before_pooling) <= count:  # as many as there are
        return tuple(range(len(ends)))[-count:]
    blocks = len(before_pooling) - 1  # the stem is not a block
    if blocks == count:
        return tuple(before_pooling[1:])
    return tuple(round((quarter + 0.5) * blocks / count) for quarter in range(count))


def _is_block(link: nn.Module) -> bool:
    """Whether a link has submodules and, among them, weights or an activation."""
    parts = list(link.modules())[1:]
    weights = any(parameter.ndim > 1 for parameter in link.parameters())
    return bool(parts) and (weights or any(isinstance(part, ACTIVATIONS) for part in parts))
