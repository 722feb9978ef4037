"""What a network costs: multiply-accumulates."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.methods.chain import Chain


def macs(chain: Chain) -> int:
    """Multiply-accumulates of one image's way through convolutions, linear layers and attention, on the meta device."""
    twin = copy.deepcopy(chain).to("meta").eval()
    value = torch.empty(1, *chain.image, device="meta", dtype=next(twin.parameters()).dtype)
    # torch counts a multiplication and an addition as two.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for link in twin.links:
            value = link(value)
    return int(counter.get_total_flops()) // 2
