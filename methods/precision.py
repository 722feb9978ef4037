"""The precision in which a network computes; bf16 also works on a processor without instructions for it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdbench.portable import portable

# The functions whose factors autocast rounds, as far as classifiers call them. A function that is missing here, as all
# inside nn.MultiheadAttention are, is slow but not wrong.
PRODUCTS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, F.linear, F.scaled_dot_product_attention),
    *(
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.mm,
        torch.Tensor.mm,
        torch.bmm,
        torch.Tensor.bmm,
    ),
    *(torch.addmm, torch.baddbmm, torch.einsum),
}


def _cpu_multiplies() -> bool:
    """Whether torch has a library for bf16 products on this processor, with instructions that the library may use.

    With only AVX-512 the library emulates the instructions, at three times the cost of fp32.
    """
    library = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return library and not portable() and (instructions or not torch.cpu._is_avx512_supported())


CPU_MULTIPLIES = _cpu_multiplies()


def computed_in(precision: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    """torch's autocast to ``precision``, or no autocast for None.

    On a processor without instructions for bf16, the context makes the same roundings at the cost of fp32.
    """
    if precision != torch.bfloat16 or multiplies_bf16(device.type):
        return torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None)
    return _widened()


def multiplies_bf16(device: str) -> bool:
    """Whether torch should compute products of bf16 on a device of this type.

    If torch has no library for them, a step of resnet8 takes ten times as long as in fp32.
    """
    return device != "cpu" or CPU_MULTIPLIES


def way_of_multiplying_bf16() -> str:
    """How this processor multiplies bf16; the last bits depend on it. Empty for any way but AMX and fp32."""
    if not CPU_MULTIPLIES:
        return "in fp32"
    return "AMX" if torch.cpu._is_amx_tile_supported() else ""


@contextmanager
def _widened() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16), Widened():
        yield


class Widened(TorchFunctionMode):
    """Under autocast to bf16, gives the products of bf16 instructions, but computes in fp32.

    The factors are rounded to bf16, their products are summed in fp32, and the sum is rounded. Gradients are rounded at
    the same places.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu") or _double(*args, *kwargs.values()):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            wide: Tensor = func(*map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()})
        return wide.bfloat16()


def _double(*values: Any) -> bool:
    """Whether any value is fp64, which autocast leaves unchanged."""
    return any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in values)


def _rounded(value: Any) -> Any:
    return value.bfloat16().float() if isinstance(value, Tensor) and value.is_floating_point() else value
