"""What the tests share: a tiny pair, a handful of digits, the real training loop, and the golden numbers."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from kdbench.benchmark import extensions
from kdbench.benchmark.data import DATASETS, Dataset, load
from kdbench.benchmark.networks import build, registry
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.loop import Epoch, Live, drive, training
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs

GOLDEN = Path(__file__).parent / "golden"
LOSSES = ("losses", "more")
CPU = Engine(torch.device("cpu"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny networks are no faster with two, and much slower beside another job


@pytest.fixture(autouse=True)
def _own_names() -> Iterator[None]:
    """What a test registers, as a user's file does, is gone after it."""
    kept: list[tuple[Any, Any]] = [
        (METHODS._things, dict(METHODS._things)),
        (DATASETS._things, dict(DATASETS._things)),
        (registry.FAMILIES, list(registry.FAMILIES)),
        (extensions._loaded, dict(extensions._loaded)),
        (extensions._owner, dict(extensions._owner)),
    ]
    yield
    for names, before in kept:
        if names != before:
            names.clear()
            (names.extend if isinstance(names, list) else names.update)(before)
            registry.form.cache_clear()


# -- a tiny pair, and what is known of its training -------------------------------------------------------------------


def seeded(name: str, seed: int, device: str = "cpu") -> Chain:
    torch.manual_seed(seed)
    return build(name, classes=10, image=(1, 8, 8), device=device)


@pytest.fixture
def student() -> Chain:
    return seeded("resnet8x0.25", 1)


@pytest.fixture
def teacher() -> Chain:
    return seeded("resnet14x0.5", 2)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """60 images to train on, 40 to test with."""
    data = load("digits", Path())
    rows = torch.arange(60)
    return Dataset(data.train[rows], data.test[rows[:40]], data.mean, data.std, data.crop, data.flip)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(epochs=2, batch=20, schedule="constant", weight_decay=0)


@pytest.fixture(scope="session")
def facts(digits: Dataset, recipe: Recipe) -> Facts:
    facts = recipe.facts(classes=10, labels=digits.train.labels)
    return replace(facts, images=partial(shown, digits, CPU))


MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_batch(facts: Facts) -> MakeBatch:
    """A batch with all that a method may need; the same numbers every time."""

    def make(needs: Needs | None = None, phase: str = "main", dtype: torch.dtype = torch.float32) -> Batch:
        needs, draw = needs or Needs(), Generator().manual_seed(0)
        views = [torch.randn(8, 1, 8, 8, generator=draw).to(dtype) for _ in needs.views]
        return Batch(
            views=tuple(view.requires_grad_(needs.input_grad) for view in views),
            labels=facts.labels[:8],
            index=torch.arange(8),
            epoch=torch.tensor(1.0),
            generator=Generator().manual_seed(0),
            phase=phase,
        )

    return make


def train(*what: Any, watch: Callable[[Live], None] | None = None, **how: Any) -> list[Epoch]:
    """All of a ``training``."""
    return drive(training(*what, **how), watch)


Learn = Callable[..., list[Epoch]]


@pytest.fixture
def learn(digits: Dataset, recipe: Recipe) -> Learn:
    """The real loop on the digits."""

    def learn(student: Chain, teacher: Chain | None, method: Method, **how: Any) -> list[Epoch]:
        return train(student, teacher, method, digits, how.pop("recipe", recipe), seed=0, engine=CPU, **how)

    return learn


# -- golden numbers ---------------------------------------------------------------------------------------------------


class Golden:
    """One entry of the golden losses in one precision: ``golden["zs"]`` is an input, ``check`` knows the answer."""

    def __init__(self, entry: dict[str, Any], dtype: torch.dtype) -> None:
        self.entry = entry
        self.parameters: dict[str, Any] = entry["parameters"]
        self.dtype = dtype
        self.tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        self.inputs = {key: self._tensor(key) for key in entry["inputs"]}

    def __getitem__(self, name: str) -> Tensor:
        """An input by its full name, or by the part behind the stroke where no other input has the same."""
        keys = [key for key in self.inputs if name in (key, key.split("/")[-1])]
        assert len(keys) == 1, f"'{name}' names {len(keys)} of {list(self.inputs)}"
        return self.inputs[keys[0]]

    def check(self, value: Tensor, fp32: float = 0.0) -> None:
        """The unweighted value, and its gradient for every input that the entry has one of. ``fp32``: how far off the
        value may be there, if farther than others."""
        assert value.dtype == self.dtype
        tolerance = max(self._tolerance(self.entry["rel_err_32"]), fp32 if self.dtype == torch.float32 else 0.0)
        assert value.item() == pytest.approx(self.entry["value64"], rel=tolerance, abs=0)
        value.backward()
        for key, expected in self.entry["grads"].items():
            gradient = self.inputs[key].grad
            assert gradient is not None, f"no gradient reached {key}"
            self._check_gradient(key, gradient.double().flatten(), expected)

    def _check_gradient(self, key: str, gradient: Tensor, expected: dict[str, Any]) -> None:
        l2 = expected["l2"]
        if expected["fp32_rel_err"] is None:  # zero but for rounding
            largest = max(other["l2"] for other in self.entry["grads"].values())
            assert gradient.norm() < 1e-6 * largest, f"{key}: the gradient must vanish"
            return
        tolerance = self._tolerance(expected["fp32_rel_err"])
        assert gradient.norm().item() == pytest.approx(l2, rel=tolerance, abs=0), key
        assert gradient.abs().sum().item() == pytest.approx(expected["abs_sum"], rel=tolerance, abs=0), key
        assert gradient.sum().item() == pytest.approx(expected["sum"], abs=tolerance * expected["abs_sum"]), key
        if "first64" in expected:
            first = torch.tensor(expected["first64"], dtype=torch.float64)
            assert (gradient[: len(first)] - first).norm() <= tolerance * l2, key
        if "array" in expected:  # was stored in fp32
            whole = torch.from_numpy(arrays()[expected["array"]]).double().flatten()
            assert (gradient - whole).norm() <= max(tolerance, 1e-7) * l2, key

    def _tolerance(self, fp32_error: float) -> float:
        """In fp32 an entry may be farther off than others by its nature; it says how far."""
        return self.tolerance if self.dtype == torch.float64 else max(self.tolerance, 4 * fp32_error)

    def _tensor(self, key: str) -> Tensor:
        value = torch.from_numpy(arrays()[key])
        if not value.is_floating_point():
            return value
        return value.to(self.dtype).requires_grad_(key in self.entry.get("grads", {}))


@cache
def entries() -> list[dict[str, Any]]:
    return [entry for name in LOSSES for entry in json.loads((GOLDEN / f"{name}.json").read_text())["entries"]]


@cache
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name in LOSSES:
        with np.load(GOLDEN / f"{name}.npz") as stored:
            found |= stored
    return found


def pytest_configure(config: pytest.Config) -> None:
    # What a shell runs in the background ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What a developer has set must not lead tests, nor what they start, into real results.
    for name in [name for name in os.environ if name.startswith("KDBENCH_") and name != "KDBENCH_DATA"]:
        del os.environ[name]
    config.addinivalue_line("markers", "golden(*names): run with `golden` for each case of these losses, fp64 and fp32")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``@pytest.mark.golden("KD_T4")`` and a parameter ``golden: Golden`` are all that a golden test needs."""
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    chosen = [entry for entry in entries() if entry["name"] in marker.args]
    missing = set(marker.args) - {entry["name"] for entry in chosen}
    assert not missing, f"there are no golden numbers of {missing}"
    cases = [
        pytest.param((entry, dtype), id=f"{entry['name']}-{entry['case']}-{name}")
        for entry in chosen
        for name, dtype in (("fp64", torch.float64), ("fp32", torch.float32))
    ]
    metafunc.parametrize("golden", cases, indirect=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(*request.param)
