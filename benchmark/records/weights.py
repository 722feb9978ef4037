"""The weights of trained networks: their bytes, their digest, and teachers checked against their records."""

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from kdbench.benchmark import data, networks
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.teacher import frozen
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal


def trained(cell: Cell, store: Store) -> tuple[Chain, Record]:
    """A teacher's network with its weights, which must match its record. It is frozen, since a method may run it
    before the training loop does."""
    record = store.record(cell.id)
    file = store.weights(cell)
    if record is None or not file.exists():
        raise Refusal(f"the teacher {cell.id} must be {'imported' if cell.method == IMPORT else 'trained'} first")
    known = data.source(cell.dataset)
    teacher = networks.build(cell.student, known.classes, known.image)
    try:
        teacher.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError):
        raise Refusal(f"{file} must hold the teacher's weights, but is damaged: remove it to train it again") from None
    if digest(teacher) != record.result.weights:
        raise Refusal(
            f"{file} must hold the weights that the teacher's record names, got others: remove it to train it again"
        )
    return frozen(teacher), record


def weights_of(network: nn.Module) -> bytes:
    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def digest(network: nn.Module) -> str:
    """A digest of all weights and buffers, bit for bit."""
    total = hashlib.blake2b(digest_size=16)
    for key, value in network.state_dict().items():
        total.update(key.encode())
        total.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def size(method: nn.Module) -> int:
    """How many values a method has besides the networks: its parameters, and buffers such as memory banks."""
    return parameters(method) + sum(buffer.numel() for buffer in method.buffers())
