"""Pairs student depths with teacher depths, in one place for all methods that compare stages."""

from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal


def aligned(student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """Pairs of stage depths (student, teacher), from shallow to deep.

    Stages are counted by resolution, from the end. A resolution is the size of a map or of the grid of tokens. Of the
    stages at one resolution only the deepest counts. The last resolution of one network is paired with the last of the
    other, the second to last with the second to last, and so on until one network has no more. Only the order of the
    sizes matters, never the sizes: a network whose maps are half as large everywhere is aligned in the same way.

    The field's codebases pair stages by number and leave out the first. On ten of the standard table's pairs the result
    is the same. On vgg13 to vgg8, vgg13 to MobileNetV2 and ResNet50 to vgg8 it differs: a VGG's first stage has its own
    resolution, and its last two stages share one.

    If all stages of a network have the same resolution, as in a ViT, every stage counts. The network's last stage is
    then paired with the other network's last, and so on back.
    """
    pairs = list(zip(reversed(levels(student, "student")), reversed(levels(teacher, "teacher")), strict=False))
    return pairs[::-1]


def levels(chain: Chain, role: str) -> list[int]:
    """The deepest stage at each resolution, from shallow to deep; all stages if they share one resolution."""
    depths = stages(chain, role)
    deepest = {chain.form(depth).size: depth for depth in depths}
    return list(deepest.values()) if len(deepest) > 1 else depths


def stages(chain: Chain, role: str) -> list[int]:
    """The depths of all stages, from shallow to deep; the first is the stem where a network has one."""
    if not chain.stages:
        network = type(chain.network).__name__
        raise Refusal(
            f"features cannot be aligned: the {role} {network} has no stages to tap, but an embedding and logits alone"
        )
    return sorted(chain.stages)
