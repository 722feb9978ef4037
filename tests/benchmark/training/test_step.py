"""What a method answers is seen before it is summed: its author is told what is wrong."""

import re
from typing import Any

import pytest
import torch

from kdbench.benchmark.training.step import scalars


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
