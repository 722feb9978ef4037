"""What a method answers is seen before it is summed: its author is told what is wrong."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.benchmark.training.step import Step, scalars
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (torch.zeros(()), "losses() must return a dict of named tensors, got a Tensor"),
        ({"mse": torch.zeros(3)}, "losses()['mse'] must be a scalar tensor, got the shape (3,)"),
        ({"mse": 1.0}, "losses()['mse'] must be a scalar tensor, got a float"),
        ({"task": torch.zeros(())}, "losses() must not name a term 'task', which is the name of cross-entropy"),
        ({"mse": torch.zeros(())}, "losses() must return a term that has a gradient, got none"),
    ],
)
def test_what_is_no_dict_of_single_numbers_is_said_to_be_none(answer: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=re.escape(sentence)):
        scalars(answer)


class Peeks(Method):
    """Reads labels, and does not say so."""

    source = "labels"

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"peek": student.logits.gather(1, batch.labels[:, None]).mean()}


def test_labels_that_a_method_does_not_ask_for_are_not_shown(student: Chain) -> None:
    """Where classes arrive task by task, they would be of classes that the teacher does not know."""
    labels = torch.zeros(4, dtype=torch.long)
    method = Peeks(student, student, Facts(10, labels, 4, 1, 1))
    batch = Batch((torch.randn(4, 1, 8, 8),), labels, torch.arange(4), torch.tensor(1.0), torch.Generator())
    with pytest.raises(KeyError, match=r"the labels were not asked for: needs\(\) must say labels"):
        Step(student, method)(batch, student.trace(batch.images))
