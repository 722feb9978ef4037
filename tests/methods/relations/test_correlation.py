"""Correlation congruence, and what goes by its name."""

import numpy as np
import pytest
import torch

from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Facts
from kdbench.methods.relations.correlation import kernel_loss, neighbours_loss
from tests.conftest import Golden


@pytest.mark.golden("CC_correlation")
def test_between_neighbours_it_is_the_published_codes(golden: Golden) -> None:
    golden.check(neighbours_loss(golden["fs"], golden["ft"]))


@pytest.mark.golden("CC_kernel")
def test_with_the_kernel_it_is_another_codes(golden: Golden) -> None:
    gamma, order = golden.parameters["gamma"], golden.parameters["order"]
    golden.check(kernel_loss(golden["fs"], golden["ft"], gamma=gamma, order=order))


def test_the_kernel_series_approaches_the_gaussian() -> None:
    draw = np.random.default_rng(0)
    points = [draw.normal(size=(6, width)) for width in (4, 5)]

    def gaussian(x: np.ndarray) -> np.ndarray:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return np.exp(-0.4 * np.sum((unit[:, None] - unit) ** 2, axis=2))

    exact = np.mean((gaussian(points[0]) - gaussian(points[1])) ** 2)
    near, nearer = (kernel_loss(*map(torch.from_numpy, points), gamma=0.4, order=order).item() for order in (2, 12))
    assert nearer == pytest.approx(exact, rel=1e-9)
    assert near != pytest.approx(exact, rel=1e-3)


def test_neighbours_depend_on_the_order_of_the_batch_and_the_kernel_does_not() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 5, generator=draw).double() for _ in range(2))
    order = torch.tensor([3, 1, 4, 0, 5, 7, 2, 6])
    apart = neighbours_loss(student, teacher) - neighbours_loss(student[order], teacher[order])
    assert abs(apart) > 1e-2
    assert kernel_loss(student[order], teacher[order], 0.4, 2) == pytest.approx(kernel_loss(student, teacher, 0.4, 2))


def test_a_single_image_has_no_neighbours() -> None:
    assert neighbours_loss(torch.ones(1, 3), torch.zeros(1, 3)) == 0


def test_the_kernel_trains_nothing_beside_the_student(student: Chain, teacher: Chain, facts: Facts) -> None:
    assert not list(create("cc", student, teacher, facts, form="kernel").parameters())
    assert list(create("cc", student, teacher, facts).parameters())
