"""bf16 where the processor has no instructions for it: the same roundings, computed in fp32."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.benchmark import networks
from kdbench.methods import precision
from kdbench.methods.precision import computed_in

CPU = torch.device("cpu")
COARSE = torch.bfloat16


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: False)
    yield


def factors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


PRODUCTS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, padding=1, stride=2), [(4, 8, 6, 6), (5, 8, 3, 3), (5,)]),
    "linear": (F.linear, [(7, 30), (5, 30), (5,)]),
    "by keyword": (lambda x, w: F.linear(input=x, weight=w), [(7, 30), (5, 30)]),
    "@": (lambda one, other: one @ other, [(2, 6, 20), (2, 20, 3)]),
    "matmul": (torch.matmul, [(6, 20), (20, 3)]),
    "bmm": (torch.bmm, [(2, 6, 20), (2, 20, 3)]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_that_of_rounded_factors_rounded_and_so_is_what_flows_back(name: str) -> None:
    """Half a unit in the last place of eight bits, and what fp32 adds to that."""
    product, shapes = PRODUCTS[name]
    given = factors(*shapes)
    with computed_in(COARSE, CPU):
        made = product(*given)
    torch.manual_seed(1)
    upstream = torch.randn_like(made)
    made.backward(upstream)

    exact_factors = [value.detach().bfloat16().double().requires_grad_() for value in given]
    exact = product(*exact_factors)
    exact.backward(upstream.double())

    assert made.dtype == COARSE
    torch.testing.assert_close(made.double(), exact, rtol=2**-8 * 1.01, atol=1e-5)
    assert not torch.allclose(made.double(), exact, rtol=1e-4, atol=1e-6)
    for value, exact_value in zip(given, exact_factors, strict=True):
        assert value.grad is not None and value.grad.dtype == torch.float32
        assert torch.equal(value.grad, value.grad.bfloat16().float())
        torch.testing.assert_close(value.grad.double(), exact_value.grad, rtol=2**-8 * 1.01, atol=1e-5)


class Coarse(TorchDispatchMode):
    """Which products of torch's own were given bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = {value.dtype for value in tree_leaves(args) if isinstance(value, Tensor)}
        # "_select_conv_backend" only asks which library would do it.
        if COARSE in given and any(word in name for word in ("conv", "mm", "attention")) and "backend" not in name:
            self.products.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "MobileNetV2", "timm:vit_tiny_patch16_224", "fo_vit_ett"])
def test_no_network_multiplies_in_bf16_neither_forwards_nor_backwards(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = networks.build(name, 10, (3, 32, 32)).train()
    chain.precision = COARSE
    images = torch.randn(4, 3, 32, 32)
    with Coarse() as coarse:
        chain(images).square().mean().backward()
    assert coarse.products == set()
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    with Coarse() as coarse:
        chain(images).square().mean().backward()
    assert len(coarse.products) >= 2


def test_a_network_answers_as_by_torchs_own_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both differ from fp32 more than from each other."""
    chain, images = networks.build("resnet8", 10, (3, 32, 32)).eval(), torch.randn(16, 3, 32, 32)
    exact = chain(images)
    chain.precision = COARSE
    widened = chain(images)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    own = chain(images)
    assert not torch.equal(own, exact)
    assert (widened - own).norm() < 0.75 * (own - exact).norm()


def test_the_compiler_rounds_at_the_same_places() -> None:
    """Whatever kernels it would make; that takes too long here."""
    chain, images = networks.build("resnet8", 10, (3, 32, 32)).train(), torch.randn(4, 3, 32, 32)
    chain.precision = COARSE
    compiled = torch.compile(lambda: chain(images), backend="aot_eager", fullgraph=True)

    def gradients(loss: Tensor) -> list[Tensor]:
        return [loss, *torch.autograd.grad(loss, list(chain.parameters()))]

    for value, same in zip(
        gradients(compiled().square().mean()), gradients(chain(images).square().mean()), strict=True
    ):
        assert torch.equal(value, same)


def test_double_stays_double_and_so_does_what_autocast_is_told_to_leave() -> None:
    one, other = factors((3, 4), (4, 5))
    exact = one @ other
    with computed_in(COARSE, CPU):
        assert (one.double() @ other.double()).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(one @ other, exact)
        assert (one * one).dtype == torch.float32
    assert (one @ other).dtype == torch.float32


def test_without_a_precision_nothing_is_rounded_whatever_surrounds_it() -> None:
    one, other = factors((3, 4), (4, 5))
    with torch.autocast("cpu", dtype=COARSE), computed_in(None, CPU):
        assert (one @ other).dtype == torch.float32
    with computed_in(COARSE, CPU), computed_in(None, CPU):
        assert (one @ other).dtype == torch.float32


@pytest.mark.parametrize(
    ("library", "avx512", "bf16", "amx", "multiplies"),
    [
        pytest.param(False, True, False, False, False, id="without a library"),
        pytest.param(True, True, False, False, False, id="AVX-512 alone, where the library would imitate"),
        pytest.param(True, True, True, False, True, id="AVX-512 with instructions"),
        pytest.param(True, True, False, True, True, id="AMX"),
        pytest.param(True, False, False, False, True, id="another maker's instructions"),
    ],
)
def test_bf16_is_left_to_torch_where_the_processor_has_instructions_for_it(
    library: bool, avx512: bool, bf16: bool, amx: bool, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision._cpu_multiplies() is multiplies
