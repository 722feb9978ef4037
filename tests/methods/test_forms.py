"""A value of one form turned into another."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from kdbench.methods.forms import Adapter, Form, as_map, averaged, resized

FORMS = [
    *(Form("map", 3, (4, 4)), Form("map", 5, (2, 2)), Form("map", 5, (7, 3))),
    *(Form("tokens", 6, (4, 4), 1), Form("tokens", 5, (3, 3)), Form("tokens", 4, (8, 8), 2), Form("vector", 7)),
]


def value(form: Form) -> Tensor:
    torch.manual_seed(0)
    match form.kind:
        case "map":
            return torch.randn(2, form.channels, *form.size)
        case "tokens":
            return torch.randn(2, form.prefix + form.positions, form.channels)
        case "vector":
            return torch.randn(2, form.channels)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMS, FORMS)), ids=str)
def test_an_adapter_turns_every_form_into_every_other(source: Form, target: Form, norm: bool) -> None:
    assert Adapter(source, target, norm=norm)(value(source)).shape == value(target).shape


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_adapter_that_projects_nothing_changes_nothing(form: Form) -> None:
    adapter = Adapter(form, form)
    nn.init.eye_(adapter.project.weight[..., 0, 0])
    torch.testing.assert_close(adapter(value(form)), value(form))


def test_tokens_lie_down_row_by_row_without_their_prefix() -> None:
    tokens = torch.arange(5.0)[None, :, None]  # a class token and a grid of 2 by 2
    assert as_map(tokens, Form("tokens", 1, (2, 2), 1)).tolist() == [[[[1, 2], [3, 4]]]]


def test_a_map_shrinks_by_averages_and_grows_by_repeating() -> None:
    image = torch.arange(4.0).view(1, 1, 2, 2)
    assert resized(image, (1, 1)).tolist() == [[[[1.5]]]]
    assert resized(image, (4, 1)).flatten().tolist() == [0.5, 0.5, 2.5, 2.5]


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (3, 3), (4, 8), (8, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_averaging_has_the_bits_of_adaptive_pooling(size: tuple[int, int], layout: torch.memory_format) -> None:
    """Whichever kernel does it."""
    one = torch.randn(4, 16, 8, 8).to(memory_format=layout).requires_grad_()
    other = one.detach().clone().requires_grad_()
    pooled, expected = averaged(one, size), torch.nn.functional.adaptive_avg_pool2d(other, size)
    assert torch.equal(pooled, expected)
    for value in (pooled, expected):
        value.square().sum().backward()
    assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


def test_where_the_numbers_of_prefix_tokens_differ_each_is_the_mean_of_the_grid() -> None:
    source, target = Form("map", 3, (2, 2)), Form("tokens", 4, (2, 2), 2)
    tokens = Adapter(source, target)(value(source))
    torch.testing.assert_close(tokens[:, :2], tokens[:, 2:].mean(1, keepdim=True).expand(-1, 2, -1))
