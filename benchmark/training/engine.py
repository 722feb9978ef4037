"""Where and how the arithmetic is done: settings that change a run's speed, and its numbers only by rounding."""

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
# On a GPU, ``auto`` compiles runs of at least this many steps. Nobody has measured the gain there, so the bar is high.
# Every process that starts or resumes a run compiles again, which took 26 to 41 s for resnet56 → resnet20 (on a CPU).
# At 10 ms a step, this many steps take 500 s, and a saving of a tenth pays for it. On a CPU, ``auto`` never compiles:
# convolutions are oneDNN's either way. Over eight comparisons a step took 2% less time in the median, with a range from
# 6% less to 3% more.
LONG = 50_000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
MOST, MOST_IN_OLD = 2**31 - 1, 2**25  # bytes; the maximum in glibc, and in glibc before 2.35
# Environment variables that change how the libraries under torch compute.
TOLD_TO_LIBRARIES = (
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",  # an older name, which oneDNN still reads
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
)


@dataclass(frozen=True)
class Engine:
    device: torch.device
    live_teacher: bool = False  # run the teacher at every step, even if its answers are cached
    compile: Compile = "auto"

    @classmethod
    def best(cls, **settings: Any) -> "Engine":
        return cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"), **settings)

    def settled(self, steps: int, needs: Needs, world: int = 1) -> "Engine":
        """The engine of a run of this many steps.

        Whether it compiles depends only on facts known before the first step, so a resumed run decides as before.
        """
        pays = self.device.type == "cuda" and steps >= LONG
        asked = pays if self.compile == "auto" else self.compile == "on"
        possible = needs.compilable and not needs.input_grad and world == 1
        return replace(self, compile="on" if asked and possible else "off")

    @property
    def compile_mode(self) -> str:
        """On a GPU, a small network waits for kernel launches; a CUDA graph launches all kernels at once."""
        return "reduce-overhead" if self.device.type == "cuda" else "default"

    @property
    def compile_options(self) -> dict[str, Any]:
        """On a CPU, the compiler would switch every convolution to channels last, including those that overrun."""
        return (
            {"mode": self.compile_mode} if self.device.type == "cuda" else {"options": {"layout_optimization": False}}
        )

    def place(self, module: nn.Module, recipe: Recipe) -> None:
        """Move a network or a method to the device and set the recipe's precision."""
        module.to(self.device)
        if isinstance(module, Chain):
            module.precision = torch.bfloat16 if recipe.precision == "bf16" else None
            if not (self.device.type == "cpu" and overruns(module)):
                module.to(memory_format=torch.channels_last)

    def prepare(self) -> None:
        """Make runs bitwise reproducible; on a CPU, also keep memory for the next step.

        A GPU must be told to sum in a fixed order. Where it cannot, as for the gradient of an adaptive pooling, torch
        warns.
        """
        if self.device.type == "cpu":
            keep_memory()
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise cuBLAS may sum in any order
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Uninitialised memory is never read, so filling it would only cost time.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            # The fused kernels for attention sum in any order in the backward pass, and only warn.
            torch.backends.cuda.enable_flash_sdp(False)
            torch.backends.cuda.enable_mem_efficient_sdp(False)
            torch.backends.cuda.enable_cudnn_sdp(False)
            if self.device.index is not None:  # otherwise CUDA graphs would wait for the first GPU
                torch.cuda.set_device(self.device)

    def arithmetic(self, precision: str) -> dict[str, str | int | bool]:
        """Everything that may change the last bits of a run in this precision; its digest is the environment key."""
        cuda = self.device.type == "cuda"
        facts: dict[str, str | int | bool] = {
            "device": torch.cuda.get_device_name(self.device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "channels_last": True,
            "torch": str(torch.__version__),
        }
        told = {name: os.environ[name] for name in TOLD_TO_LIBRARIES if os.environ.get(name)}
        if portable():
            facts["portable"], told = True, {name: value for name, value in told.items() if name not in TOLD}
        elif self.device.type == "cpu":
            facts["cpu"] = processor()  # libraries choose by more than the instruction set that torch names
        if cuda:
            facts["tf32"] = torch.backends.cudnn.allow_tf32  # of convolutions in fp32, unless it is disabled
            facts["tf32_products"] = torch.backends.cuda.matmul.allow_tf32  # some containers enable it
            facts["cudnn"] = torch.backends.cudnn.version() or 0
        else:
            facts["threads"] = torch.get_num_threads()
        if precision == "bf16" and not cuda and (way := way_of_multiplying_bf16()):
            facts["bf16"] = way
        return facts | told | ({"compile": self.compile_mode} if self.compile == "on" else {})


@cache
def processor() -> str:
    """The processor's name, as the processor reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def usable(device: torch.device) -> bool:
    """Whether the device still works. After some errors, all further calls of the same process to its GPU fail."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@cache
def keep_memory() -> None:
    """Keep a step's memory in the process for the next step.

    By default glibc returns it to the system and requests it again page by page. For a narrow network, this costs some
    1,500 page faults and a tenth of a step.
    """
    with contextlib.suppress(OSError, AttributeError):  # a system with another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_MMAP_THRESHOLD, MOST) or mallopt(M_MMAP_THRESHOLD, MOST_IN_OLD)


def overruns(network: nn.Module) -> bool:
    """Whether a network would hit oneDNN issue 6035 with channels last on a CPU.

    There the weight gradient of a strided 1×1 convolution with under 16 channels writes beyond its buffer. Gradients
    are wrong with some numbers of threads; with others the process crashes.
    """
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(conv.kernel_size == (1, 1) != conv.stride and conv.in_channels < 16 for conv in convolutions)
