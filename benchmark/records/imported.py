"""Imported teachers: a checkpoint that others trained becomes a teacher that is named by its content.

``kdbench teacher import`` stores the weights, and a record with their origin and their accuracy on this machine. In a
grid the teacher's name is ``NETWORK@DIGEST``.
"""

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdbench.benchmark import data, extensions, networks
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.records.cell import IMPORT, Cell
from kdbench.benchmark.records.environment import environment
from kdbench.benchmark.records.record import Cost, Curves, Record, Result
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest, parameters, weights_of
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import evaluate
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal

MARK = "@"  # not in any network's name
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")  # usual keys of weights in a checkpoint


def state_in(file: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file. Nothing in the file is run as code."""
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except FileNotFoundError:
        raise Refusal(f"{file}: no such file") from None
    except Exception:  # torch, pickle and safetensors raise many kinds
        raise Refusal(f"{file} must hold only weights, got something that is damaged or would be run as code") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise Refusal(f"{file} must hold named weights, got something else")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _unpickled(file: Path) -> Any:
    # Accuracies were often saved as NumPy numbers beside the weights.
    numbers = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    with torch.serialization.safe_globals([*numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]):
        return torch.load(file, map_location="cpu", weights_only=True)


def fill(chain: Chain, state: dict[str, Tensor], name: str) -> None:
    """Load weights. Those of another network are refused with the first key or shape that differs."""
    own = chain.state_dict()
    for key, value in own.items():
        if key not in state and not key.endswith("num_batches_tracked"):  # missing in old files
            raise Refusal(f"{name} must have the weights '{key}' {_shape(value)}, which are missing in the file")
        if key in state and state[key].shape != value.shape:
            raise Refusal(f"{name}: '{key}' must be {_shape(value)}, got {_shape(state[key])}")
        if key in state and not _plain(state[key], value):
            raise Refusal(f"{name}: '{key}' must be plain {_type(value)} numbers, got {_type(state[key])}")
    for key in state:
        if key not in own:
            raise Refusal(f"{name} has no weights '{key}', which are in the file: {_shape(state[key])}")
    chain.load_state_dict(state, strict=False)


def _plain(found: Tensor, wanted: Tensor) -> bool:
    stored = found.layout == torch.strided and not found.is_quantized and not found.is_meta
    return stored and (found.is_floating_point() or not wanted.is_floating_point())


def _type(value: Tensor) -> str:
    words = [str(value.dtype), "" if value.layout == torch.strided else str(value.layout), value.device.type]
    return " ".join(word.removeprefix("torch.") for word in words if word not in ("", "cpu"))


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def cell(dataset: str, name: str) -> Cell | None:
    """The cell of a teacher with the name ``NETWORK@DIGEST``; None for a teacher that is trained here."""
    network, mark, weights = name.partition(MARK)
    if not mark:
        return None
    if not re.fullmatch(r"[0-9a-f]{12}", weights):
        raise Refusal(f"an imported teacher must be named NETWORK{MARK}DIGEST as its import printed, got '{name}'")
    params, code = {"weights": weights}, extensions.needed(dataset, network)
    return Cell(dataset=dataset, student=network, method=IMPORT, params=params, protocol=IMPORT, seed=0, code=code)


def take(file: Path, network: str, dataset: str, store: Store, data_folder: Path) -> tuple[str, Record]:
    """Store a checkpoint's weights and their accuracy on the test set. Returns the teacher's name and its record."""
    known = data.source(dataset)
    networks.form(network, known.classes, known.image)  # refuses images that it cannot take
    chain = networks.build(network, known.classes, known.image)
    fill(chain, state_in(file), network)
    weights = digest(chain)
    name = f"{network}{MARK}{weights[:12]}"
    asked = cell(dataset, name)
    assert asked is not None

    engine, recipe, images = Engine.best(), Recipe(epochs=1), data.load(dataset, data_folder)
    engine.place(chain, recipe)
    images = images.to(engine.device)
    started = time.perf_counter()
    score = evaluate(chain, images.test, Normalise(images, engine.device))
    seconds = time.perf_counter() - started
    if not math.isfinite(score.loss):
        raise Refusal(f"{file} must hold weights that give {network} a finite loss on {dataset}, got {score.loss}")
    count = parameters(chain)
    record = Record(
        id=asked.id,
        cell=asked,
        result=Result(
            top1=score.top1,
            top5=score.top5,
            test_loss=score.loss,
            best_top1=score.top1,
            best_epoch=0,
            curves=Curves(lr=[], terms={}, top1=[], test_loss=[]),
            params=asked.params,
            weights=weights,
        ),
        cost=Cost(
            seconds=0.0,
            wall_seconds=seconds,
            images_per_second=0.0,
            epoch_seconds=[],
            peak_memory_mb=0.0,
            student_parameters=count,
            method_parameters=0,
            deployed_parameters=count,
        ),
        environment=environment(engine, recipe.precision),
        origin=file.name,
    )
    store.finish(record, weights_of(chain.cpu()))
    return name, record
