"""The CIFAR zoo against numbers that the field's own code gave (tests/golden/README.md)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain

GOLDEN = Path(__file__).parents[2] / "golden"
REFERENCE: dict[str, dict[str, Any]] = json.loads((GOLDEN / "networks.json").read_text())["networks"]
ARRAYS = np.load(GOLDEN / "networks.npz")
P, A, B, C = 1_000_003, 7_919, 104_729, 15_485_863

every_network = pytest.mark.parametrize("name", REFERENCE)
# The reference names no norms for the ShuffleNets.
every_normed_network = pytest.mark.parametrize("name", [name for name in REFERENCE if "Shuffle" not in name])


def ruled(key: str, position: int, like: Tensor) -> Tensor:
    """The value that the rule gives to one entry of a state: integers throughout, so that it is exact."""
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    m = np.arange(1, like.numel() + 1, dtype=np.int64) % P
    h = ((m * m % P) * A + m * B + (position + 1) * C) % P
    u = (2 * h / P - 1).reshape(like.shape)
    if like.dim() >= 2:
        u = u * np.sqrt(3 * 1.5 / np.prod(like.shape[1:]))
    elif key.endswith("running_var"):
        u = 1 + 0.5 * np.abs(u)
    elif key.endswith("weight"):
        u = 1 + 0.25 * u
    else:
        u = 0.05 * u
    return torch.from_numpy(u).float()


def images() -> Tensor:
    k = np.arange(1, 2 * 3 * 32 * 32 + 1, dtype=np.float64)
    return torch.from_numpy(np.sin(0.37 * k + 0.0011 * k * k)).float().view(2, 3, 32, 32)


@cache
def ruled_state(name: str) -> dict[str, Tensor]:
    state = networks.build(name, 100, (3, 32, 32), device="meta").state_dict()
    return {key: ruled(key, position, value) for position, (key, value) in enumerate(state.items())}


def chain_of(name: str, dtype: torch.dtype = torch.float32) -> Chain:
    chain = networks.build(name, 100, (3, 32, 32))
    chain.load_state_dict(ruled_state(name))
    return chain.to(dtype).eval()


def error(got: Tensor, want: Any) -> float:
    """The largest difference, in units of the largest value."""
    wanted = torch.as_tensor(np.asarray(want), dtype=torch.float64)
    assert got.shape == wanted.shape
    return float((got.detach().double() - wanted).abs().max() / wanted.abs().max())


def summary(value: Tensor) -> Tensor:
    flat = value.detach().double().flatten()
    numbers = [flat.mean(), flat.std(correction=0), flat.min(), flat.max()]
    return torch.cat([torch.stack(numbers), flat[:8], flat[-4:]])


def summary_of(golden: dict[str, Any]) -> list[float]:
    return [*(golden[key] for key in ("mean", "std", "min", "max")), *golden["first8"], *golden["last4"]]


def test_the_images_are_those_of_the_reference() -> None:
    assert np.array_equal(images().numpy(), ARRAYS["input"])


@every_network
def test_state_keys_shapes_types_and_order_are_the_fields(name: str) -> None:
    chain = networks.build(name, 100, (3, 32, 32), device="meta")
    state = chain.state_dict()
    entries = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert entries == REFERENCE[name]["keys"]
    assert sum(parameter.numel() for parameter in chain.parameters()) == REFERENCE[name]["n_params"]


@every_network
def test_logits_and_embedding_agree_in_fp32_and_fp64(name: str) -> None:
    with torch.no_grad():
        single = chain_of(name).trace(images())
        double = chain_of(name, torch.float64).trace(images().double())
    assert error(single.logits, ARRAYS[f"{name}/logits"]) < 1e-5
    assert error(single.embedding, ARRAYS[f"{name}/pooled"]) < 1e-5
    assert error(double.logits, ARRAYS[f"{name}/logits64"]) < 1e-9
    assert float(double.embedding.norm()) == pytest.approx(REFERENCE[name]["pooled64_l2"], rel=1e-9)


@every_network
def test_stages_hold_the_classical_feature_taps(name: str) -> None:
    chain = chain_of(name)
    with torch.no_grad():
        trace = chain.trace(images(), chain.stages)
    wanted = REFERENCE[name]["feats"]
    assert len(chain.stages) == len(wanted)
    for depth, golden in zip(chain.stages, wanted, strict=True):
        assert list(trace[depth].shape) == golden["shape"]
        assert error(summary(trace[depth]), summary_of(golden)) < 1e-5, depth


@every_normed_network
def test_the_values_before_the_activations_agree(name: str) -> None:
    """The reference has none for the stem: there it repeats the tap."""
    chain = chain_of(name)
    depths = [chain.before_activation(depth) for depth in chain.stages[1:]]
    with torch.no_grad():
        trace = chain.trace(images(), depths)
    stem, *wanted = REFERENCE[name]["preact_feats"]
    assert stem["same_as_feat"]
    for depth, golden in zip(depths, wanted, strict=True):
        assert list(trace[depth].shape) == golden["shape"]
        assert error(summary(trace[depth]), summary_of(golden)) < 1e-5, depth


@every_normed_network
def test_the_norms_before_the_activations_are_the_fields(name: str) -> None:
    chain = networks.build(name, 100, (3, 32, 32), device="meta")
    called = {module: key for key, module in chain.network.named_modules()}
    norms = [chain.norm_at(chain.before_activation(depth)) for depth in chain.stages[1:]]
    assert [called[norm] for norm in norms if norm] == REFERENCE[name]["bn_before_relu"]


@every_network
def test_in_training_the_logits_and_the_running_statistics_agree(name: str) -> None:
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        chain = chain_of(name, dtype).train()
        with torch.no_grad():
            logits = chain(images().to(dtype))
        assert error(logits, ARRAYS[f"{name}/train_logits64"]) < tolerance
        norms = [module for module in chain.modules() if isinstance(module, _BatchNorm)]
        wanted = REFERENCE[name]["train_mode"][f"buffers_after_one_forward_fp{torch.finfo(dtype).bits}"]
        assert len(norms) == wanted["n_bn"]
        for kind in ("running_mean", "running_var"):
            every = torch.cat([getattr(norm, kind) for norm in norms]).double()
            size = wanted[f"{kind}_l2"]
            assert float(every.norm()) == pytest.approx(size, rel=tolerance)
            assert float(every.sum()) == pytest.approx(wanted[f"{kind}_sum"], abs=tolerance * size)


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "MobileNetV2"])
def test_where_the_reference_sets_the_classifiers_bias_to_zero_it_starts_there(name: str) -> None:
    assert not networks.build(name, 100, (3, 32, 32)).classifier.bias.any()
