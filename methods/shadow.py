"""A pass on the meta device: finds the shapes of a network's values and their cost, itself at almost no cost."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATEN = torch.ops.aten
# Operators that keep their input's shape. On the meta device torch recomputes it in Python: most of a pass's time.
INITIAL = {ATEN.normal_, ATEN.uniform_, ATEN.erfinv_, ATEN.clamp_, ATEN.fill_, ATEN.zero_}
ACTIVATIONS = {ATEN.relu, ATEN.gelu, ATEN.silu, ATEN.sigmoid, ATEN.hardtanh, ATEN.hardswish, ATEN.hardsigmoid}
SAME = INITIAL | ACTIVATIONS
NORMS = {
    *(ATEN.native_batch_norm, ATEN._native_batch_norm_legit, ATEN._native_batch_norm_legit_no_training),
    *(ATEN.native_layer_norm, ATEN.native_group_norm),
}


def _sum(one: Tensor, other: Any, **_: Any) -> Tensor:
    return one.new_empty(torch.broadcast_shapes(one.shape, getattr(other, "shape", ())))


def _beside(parts: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return parts[0].new_empty(shape)


# Replacements for operators that import torch's compiler on the meta device, which takes a second.
LIGHT: dict[Any, Callable[..., Tensor]] = {
    ATEN.add.Tensor: _sum,
    ATEN.addmm.default: lambda _, left, right, **__: ATEN.mm.default(left, right),
    ATEN.cat.default: _beside,
    ATEN.mean.dim: ATEN.sum.dim_IntList,
}


class Shadow(TorchDispatchMode):
    """Skips initial values, activations and norms of tensors on the meta device, and counts the cost of the rest.

    ``macs`` is the number of multiply-accumulates of convolutions, matrix products and attention.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the compiler is kept out by not importing it

    @property
    def macs(self) -> int:
        return self._flops // 2  # torch counts a multiplication and an addition as two

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        operator = func.overloadpacket
        if operator in SAME and args[0].is_meta:
            return args[0]
        if operator in NORMS and args[0].is_meta:
            return args[0], args[0], args[0]  # the statistics are not read
        if func in LIGHT and all(value.is_meta for value in tree_leaves(args) if isinstance(value, Tensor)):
            func = LIGHT[func]
        value = func(*args, **(kwargs or {}))
        if operator in flop_registry:
            self._flops += flop_registry[operator](*args, **(kwargs or {}), out_val=value)
        return value
