"""Curriculum temperature."""

from dataclasses import replace

import pytest
import torch

from kdbench.methods.chain import Chain
from kdbench.methods.logits.ctkd import CTKD, reversed_gradient
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, MakeBatch
from tests.methods.golden_methods import losses
from tests.methods.logits.traces import trace


@pytest.mark.golden("CTKD")
def test_the_student_descends_and_the_temperature_climbs_as_the_authors(
    golden: Golden, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = CTKD(student, teacher, facts, weight=1.0)
    batch = replace(make_batch(), epoch=torch.tensor(golden.parameters["epoch"], dtype=golden.dtype))
    traces = trace(golden["zs"]), trace(golden["zt"])
    golden.check(losses(method, golden, traces, batch)["kd"])


def test_reversal_leaves_the_value_as_it_is() -> None:
    value = torch.randn(1000)
    assert torch.equal(reversed_gradient(value, torch.tensor(0.3)), value)


def test_temperatures_that_could_reach_zero_are_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="ctkd: lowest must be above 0"):
        CTKD(student, teacher, facts, lowest=0.0)
