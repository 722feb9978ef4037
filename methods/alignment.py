"""Which depth of the student answers to which of the teacher: the one place where depths of two networks meet."""

from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal


def aligned(student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """Pairs of stage depths, student and teacher, from shallow to deep.

    A network's stages are counted by resolution and from the end. Of the stages at one resolution (a map's size, the
    grid of tokens) only the deepest stands for it; the last resolution of one network answers to the last of the
    other, the one before to the one before, until one of them has no more. Only the order of the sizes matters, never
    the sizes: a network whose maps are half as large everywhere is aligned as if they were not.

    The field's codebases pair stages by number, the first left out. On ten of the standard table's pairs that is the
    same. On vgg13 to vgg8, vgg13 to MobileNetV2 and ResNet50 to vgg8 it is not: a VGG's first stage has a resolution of
    its own, and its last two share one.

    A network whose stages all lie at one resolution, such as a ViT, has none to be counted by: then every stage counts
    for itself, its last answers to the other network's last, and so on back.
    """
    pairs = list(zip(reversed(levels(student, "student")), reversed(levels(teacher, "teacher")), strict=False))
    return pairs[::-1]


def levels(chain: Chain, role: str) -> list[int]:
    """The depths that stand for a network's resolutions, from shallow to deep."""
    if not chain.stages:
        network = type(chain.network).__name__
        raise Refusal(
            f"features cannot be aligned: the {role} {network} has no stages to tap, but an embedding and logits alone"
        )
    deepest = {chain.form(depth).size: depth for depth in sorted(chain.stages)}
    return list(deepest.values()) if len(deepest) > 1 else sorted(chain.stages)
