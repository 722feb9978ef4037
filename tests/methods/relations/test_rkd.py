"""Relational distillation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.relations.rkd import angle_loss, distance_loss
from tests.conftest import Golden


@pytest.mark.golden("RKD_distance")
def test_distance_loss_is_the_published_codes(golden: Golden) -> None:
    golden.check(distance_loss(golden["fs"], golden["ft"]))


@pytest.mark.golden("RKD_angle")
def test_angle_loss_is_the_published_codes(golden: Golden) -> None:
    """In the case P_dup the gradient of the rows 0 and 3 is a choice at a kink, and it is the same choice."""
    golden.check(angle_loss(golden["fs"], golden["ft"]))


def test_a_student_that_is_the_teacher_turned_moved_and_stretched_has_nothing_to_learn() -> None:
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    turn = torch.linalg.qr(torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).double()).Q
    student = 3 * teacher @ turn.T + 2
    assert distance_loss(student, teacher) < 1e-20
    assert angle_loss(student, teacher) < 1e-20
    assert distance_loss(student**3, teacher) > 1e-3
    assert angle_loss(student**3, teacher) > 1e-3


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
@pytest.mark.parametrize("images", [1, 2])
def test_a_batch_too_small_for_relations_teaches_nothing_and_breaks_nothing(
    loss: Callable[[Tensor, Tensor], Tensor], images: int
) -> None:
    student = torch.randn(images, 4, requires_grad=True)
    value = loss(student, torch.randn(images, 6))
    value.backward()
    assert value < 1e-12
    assert student.grad is not None and student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("together", [(0, 1), (0, 1, 2, 3)])
def test_images_in_one_place_send_no_gradient_by_their_own_relation(together: tuple[int, ...]) -> None:
    """Whether the teacher tells them apart or not; numerically the slope there would be one of ten to the tenth."""
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    student[list(together)] = student[0].clone()
    student.requires_grad_()
    teacher = F.one_hot(torch.arange(4)).float()
    (distance_loss(student, teacher) + angle_loss(student, teacher)).backward()
    assert student.grad is not None and student.grad.abs().max() < 10
