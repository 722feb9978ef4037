"""A pass on the meta device: what shapes a network's values have and what they cost, at next to no cost itself."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ATEN = torch.ops.aten
# What keeps its input's shape. On the meta device torch works that out anew in Python, which takes most of a pass.
INITIAL = {ATEN.normal_, ATEN.uniform_, ATEN.erfinv_, ATEN.clamp_, ATEN.fill_, ATEN.zero_}
ACTIVATIONS = {ATEN.relu, ATEN.gelu, ATEN.silu, ATEN.sigmoid, ATEN.hardtanh, ATEN.hardswish, ATEN.hardsigmoid}
SAME = INITIAL | ACTIVATIONS
NORMS = {
    *(ATEN.native_batch_norm, ATEN._native_batch_norm_legit, ATEN._native_batch_norm_legit_no_training),
    *(ATEN.native_layer_norm, ATEN.native_group_norm),
}


class Shadow(TorchDispatchMode):
    """Within it, tensors on the meta device pass by initial values, activations and norms, and ``macs`` counts what
    the rest costs: the multiply-accumulates of convolutions, matrix products and attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0

    @property
    def macs(self) -> int:
        return self._flops // 2  # torch counts a multiplication and an addition as two

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        operator = func.overloadpacket
        if operator in SAME and args[0].is_meta:
            return args[0]
        if operator in NORMS and args[0].is_meta:
            return args[0], args[0], args[0]  # the statistics are not looked at
        value = func(*args, **(kwargs or {}))
        if operator in flop_registry:
            self._flops += flop_registry[operator](*args, **(kwargs or {}), out_val=value)
        return value
