"""Where and how the arithmetic is done: what changes the speed of a run, and its numbers by rounding alone."""

from dataclasses import dataclass

import torch
from torch import nn

from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain


@dataclass(frozen=True)
class Engine:
    device: torch.device
    channels_last: bool = True
    live_teacher: bool = False  # ask it at every step, whatever is remembered of its answers

    @classmethod
    def best(cls) -> "Engine":
        return cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def place(self, module: nn.Module, recipe: Recipe) -> None:
        """Move a network, or a method, to the device, ready to compute in the recipe's precision."""
        module.to(self.device)
        if isinstance(module, Chain):
            module.precision = torch.bfloat16 if recipe.precision == "bf16" else None
            if self.channels_last and not (self.device.type == "cpu" and overruns(module)):
                module.to(memory_format=torch.channels_last)

    def prepare(self) -> None:
        """The same bits every time: only algorithms that add up in a fixed order."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    def environment(self) -> dict[str, str | int | bool]:
        """All that may change a run's last bits; its digest is the environment key."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "channels_last": self.channels_last,
            "torch": str(torch.__version__),
        }


def overruns(network: nn.Module) -> bool:
    """Channels last on a CPU, oneDNN's weight gradient of a strided 1×1 convolution of under 16 channels writes beyond
    its buffer: wrong gradients with some numbers of threads, a crash with others (oneDNN issue 6035)."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(conv.kernel_size == (1, 1) != conv.stride and conv.in_channels < 16 for conv in convolutions)
