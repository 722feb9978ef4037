"""The peak rate of the device, measured on matrix products and convolutions."""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch.nn.functional import conv2d

from kdbench.methods.precision import computed_in

SIDE = 2048  # of the matrices
CHANNELS, PIXELS, IMAGES = 256, 16, 16
WINDOWS = 7
SECONDS = 0.1  # minimum length of a window


@cache
def peak_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations per second, measured once per process.

    The larger rate of a product of large square matrices and of a wide convolution. A CPU's libraries for the two may
    use different instructions, and a network can exceed the slower rate.
    """
    coarse = torch.bfloat16 if precision == "bf16" else None
    dtype = coarse or torch.float32
    one, other = torch.randn(2, SIDE, SIDE, device=device).to(dtype)
    maps, kernels = (
        torch.randn(count, CHANNELS, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        for count, side in ((IMAGES, PIXELS), (CHANNELS, 3))
    )
    positions = IMAGES * (PIXELS - 2) ** 2
    with computed_in(coarse, device):  # as for networks
        product = 2 * SIDE**3 / _seconds(lambda: one @ other, device)
        convolution = 2 * positions * 9 * CHANNELS**2 / _seconds(lambda: conv2d(maps, kernels), device)
    return max(product, convolution)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds per call, the median of several windows."""
    timed(work, 3, device)
    count = math.ceil(SECONDS / timed(work, 3, device))
    return statistics.median(timed(work, count, device) for _ in range(WINDOWS))


def timed(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds per call, the mean of ``count`` calls."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(count):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / count
