"""Initial weights."""

from typing import TypeVar

from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def initialise(net: Net) -> Net:
    """Initialise convolutions by He et al.'s rule, fan out; all other layers keep torch's initial weights."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
