"""Norm and direction."""

import numpy as np
import pytest
import torch

from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.features.norm_direction import NormDirection, norm_direction_loss
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch


@pytest.mark.golden("ND")
def test_the_loss_is_the_authors(golden: Golden) -> None:
    golden.check(norm_direction_loss(golden["fs"], golden["ft"], golden["centres"][golden["y"]]))


def test_a_short_embedding_grows_and_a_long_one_only_turns() -> None:
    centre, teacher = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 2]])

    def pull(student: list[float]) -> list[float]:
        embedding = torch.tensor([student], requires_grad=True)
        norm_direction_loss(embedding, teacher, centre).backward()
        assert embedding.grad is not None
        return (-embedding.grad[0]).tolist()

    assert pull([0.6, 0.8]) == pytest.approx([0.5, 0])
    assert np.dot(pull([3.0, 4.0]), [3, 4]) == pytest.approx(0, abs=1e-6)


def test_a_centre_is_the_mean_of_the_images_of_its_class_so_far(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = create("norm_direction", student, teacher, facts)
    assert isinstance(method, NormDirection)
    batch = make_batch(method.needs())
    with torch.no_grad():
        heard = teacher.trace(batch.images)
        for _ in range(2):
            method.losses(student.trace(batch.images), heard, batch)
    for label in range(facts.classes):
        expected = 2 * heard.embedding[batch.labels == label].sum(0)
        torch.testing.assert_close(method.sums[label], expected)


def test_widths_that_agree_are_not_projected(student: Chain, facts: Facts) -> None:
    assert not list(create("norm_direction", student, student, facts).parameters())
