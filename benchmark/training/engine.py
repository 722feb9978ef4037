"""Where and how the arithmetic is done: what changes the speed of a run, and its numbers by rounding alone."""

import contextlib
import ctypes
import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils.deterministic
from torch import nn

from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain
from kdbench.methods.method import Needs
from kdbench.methods.precision import way_of_multiplying_bf16
from kdbench.portable import TOLD, portable

Compile = Literal["auto", "on", "off"]
# From so many steps on ``auto`` compiles on a GPU, where nobody has measured it: the bar is high. Every process that
# begins or resumes a run compiles anew, which took 26 to 41 s for resnet56 → resnet20 (on a CPU). Steps of 10 ms are
# then 500 s in all, and a tenth saved has paid for it. On a CPU ``auto`` never compiles: convolutions are oneDNN's
# either way, and over eight comparisons a step took 2% less in the median, between 6% less and 3% more.
LONG = 50_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them
MOST, MOST_IN_OLD = 2**31 - 1, 2**25  # bytes; what glibc takes, and what it took before 2.35
# Variables by which one may have the libraries beneath torch compute in another way than they would.
TOLD_TO_LIBRARIES = (
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
)


@dataclass(frozen=True)
class Engine:
    device: torch.device
    live_teacher: bool = False  # ask it at every step, whatever is remembered of its answers
    compile: Compile = "auto"

    @classmethod
    def best(cls, **settings: Any) -> "Engine":
        return cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"), **settings)

    def settled(self, steps: int, needs: Needs, world: int = 1) -> "Engine":
        """The engine of a run of so many steps: whether it compiles depends on nothing that is not known before the
        first of them, so that a run that is resumed decides as it did before."""
        pays = self.device.type == "cuda" and steps >= LONG
        asked = pays if self.compile == "auto" else self.compile == "on"
        return replace(self, compile="on" if asked and not needs.input_grad and world == 1 else "off")

    @property
    def compile_mode(self) -> str:
        """On a GPU a small network waits for its kernels to be launched: a CUDA graph launches all of them at once."""
        return "reduce-overhead" if self.device.type == "cuda" else "default"

    @property
    def compile_options(self) -> dict[str, Any]:
        """On a CPU the compiler would turn every convolution to channels last, those that overrun too."""
        return (
            {"mode": self.compile_mode} if self.device.type == "cuda" else {"options": {"layout_optimization": False}}
        )

    def place(self, module: nn.Module, recipe: Recipe) -> None:
        """Move a network, or a method, to the device, ready to compute in the recipe's precision."""
        module.to(self.device)
        if isinstance(module, Chain):
            module.precision = torch.bfloat16 if recipe.precision == "bf16" else None
            if not (self.device.type == "cpu" and overruns(module)):
                module.to(memory_format=torch.channels_last)

    def prepare(self) -> None:
        """The same bits every time. A GPU must be told to add up in a fixed order; where it has no way of doing so, as
        for the gradient of an adaptive pooling, torch warns. On a CPU, no waiting for memory."""
        if self.device.type == "cpu":
            keep_memory()
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may add in any order
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=True)
            # What nobody has written yet is not read either: to fill it costs time for nothing.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def arithmetic(self, precision: str) -> dict[str, str | int | bool]:
        """All that may change the last bits of a run in this precision; its digest is the environment key."""
        cuda = self.device.type == "cuda"
        facts: dict[str, str | int | bool] = {
            "device": torch.cuda.get_device_name(self.device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "channels_last": True,
            "torch": str(torch.__version__),
        }
        told = {name: os.environ[name] for name in TOLD_TO_LIBRARIES if os.environ.get(name)}
        if portable():
            facts["portable"], told = True, {name: value for name, value in told.items() if name not in TOLD}
        elif self.device.type == "cpu":
            facts["cpu"] = processor()  # libraries choose by more than the instructions that torch names
        if cuda:
            facts["tf32"] = torch.backends.cudnn.allow_tf32  # of convolutions in fp32, unless one forbids it
        if precision == "bf16" and not cuda and (way := way_of_multiplying_bf16()):
            facts["bf16"] = way
        return facts | told | ({"compile": self.compile_mode} if self.compile == "on" else {})


@cache
def processor() -> str:
    """As it calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@cache
def keep_memory() -> None:
    """A step's memory stays the process's for the next one. glibc would give it back to the system and ask for it anew,
    page by page: some 1,500 faults and a tenth of a step, for a narrow network."""
    with contextlib.suppress(OSError, AttributeError):  # another system's library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_MMAP_THRESHOLD, MOST) or mallopt(M_MMAP_THRESHOLD, MOST_IN_OLD)


def overruns(network: nn.Module) -> bool:
    """Channels last on a CPU, oneDNN's weight gradient of a strided 1×1 convolution of under 16 channels writes beyond
    its buffer: wrong gradients with some numbers of threads, a crash with others (oneDNN issue 6035)."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(conv.kernel_size == (1, 1) != conv.stride and conv.in_channels < 16 for conv in convolutions)
