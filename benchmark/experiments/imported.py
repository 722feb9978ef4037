"""Teachers that others have trained: a checkpoint becomes a teacher that is named by its content.

``kdbench teacher import`` stores the weights, and a record that says where they came from and how good they are here;
in a grid the teacher is then called ``NETWORK@DIGEST``.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.refusal import Refusal

MARK = "@"
WRAPPERS = ("state_dict", "model", "net", "weights")  # keys under which the field's files keep a state


def state_in(file: Path) -> dict[str, Tensor]:
    """The weights in a file that the field passes around; nothing in it is run as code."""
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except FileNotFoundError:
        raise Refusal(f"{file}: no such file") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise Refusal(f"{file} must hold weights, and nothing that is run as code: {why}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise Refusal(f"{file} must hold named weights, got something else")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _unpickled(file: Path) -> Any:
    # Accuracies were often saved as NumPy numbers beside the weights.
    numbers = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    with torch.serialization.safe_globals([*numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]):
        return torch.load(file, map_location="cpu", weights_only=True)


def fill(chain: Chain, state: dict[str, Tensor], name: str) -> None:
    """Load weights, or say with the first key and shape that differ that they are another network's."""
    own = chain.state_dict()
    for key, value in own.items():
        if key not in state and not key.endswith("num_batches_tracked"):  # old files do not count batches
            raise Refusal(f"{name} must have the weights '{key}' {_shape(value)}, which are not in the file")
        if key in state and state[key].shape != value.shape:
            raise Refusal(f"{name}: '{key}' must be {_shape(value)}, got {_shape(state[key])}")
    for key in state:
        if key not in own:
            raise Refusal(f"{name} has no weights '{key}', which are in the file: {_shape(state[key])}")
    chain.load_state_dict(state, strict=False)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
