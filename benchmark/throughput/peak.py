"""What the device can do at best: its own rate of matrix products, measured."""

import math
import statistics
import time
from functools import cache

import torch

SIDE = 2048
WINDOWS = 7
SECONDS = 0.1  # that a window lasts at least


@cache
def matmul_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations a second in products of large square matrices; measured once a process."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = torch.randn(2, SIDE, SIDE, device=device).to(dtype)

    def walk(count: int) -> float:
        synchronise(device)
        started = time.perf_counter()
        for _ in range(count):
            one @ other
        synchronise(device)
        return (time.perf_counter() - started) / count

    walk(3)
    count = math.ceil(SECONDS / walk(3))
    return 2 * SIDE**3 / statistics.median(walk(count) for _ in range(WINDOWS))


def synchronise(device: torch.device) -> None:
    """Wait until all that a GPU was told is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
