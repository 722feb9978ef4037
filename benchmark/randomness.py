"""Independent streams of random numbers, each named by its purpose."""

import hashlib

import torch


def stream(*name: int | str) -> int:
    """A separate seed for each name, the same on every machine and in every version of Python."""
    digest = hashlib.blake2b("/".join(map(str, name)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_torch(seed: int, device: torch.device) -> None:
    """``torch.manual_seed`` for the CPU and this device only.

    The original also looks for devices that are not there. That takes a good part of a small network's step, and a
    tenth of the decoding of an image.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
