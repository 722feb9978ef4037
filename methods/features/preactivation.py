"""Features before their activation, where a value still shows how far it was from being passed on."""

from torch import nn

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal

RECTIFIERS = (nn.ReLU, nn.ReLU6)  # their outputs are never negative
ACTIVATIONS = (
    *RECTIFIERS, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardtanh, nn.Tanh, nn.Softplus,
)  # fmt: skip


def preactivations(student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """Pairs of aligned depths, each moved in front of its activation."""
    return [(linear(student, one), linear(teacher, other)) for one, other in aligned(student, teacher)]


def linear(chain: Chain, depth: int) -> int:
    """The depth behind the batch norm nearest to this one.

    Without a batch norm, it is the depth in front of the activation that ends here. Without an activation either, it is
    this depth (a transformer's blocks end in sums).
    """
    try:
        return chain.before_activation(depth)
    except Refusal:
        return depth - 1 if isinstance(chain.links[depth - 1], ACTIVATIONS) else depth
