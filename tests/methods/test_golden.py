"""Losses and their gradients against numbers that the public implementations gave."""

from dataclasses import replace

import pytest

from kdbench.methods.logits.divergence import softened_kl
from tests.conftest import Golden, MakeBatch


@pytest.mark.golden("cross_entropy")
def test_the_task_loss_is_cross_entropy(golden: Golden, make_batch: MakeBatch) -> None:
    batch = replace(make_batch(), labels=golden["y"])
    golden.check(batch.task(golden["zs"]))


@pytest.mark.golden("KD_T1", "KD_T4")
def test_softened_kl_is_the_fields_kd_loss(golden: Golden) -> None:
    golden.check(softened_kl(golden["zs"], golden["zt"], golden.parameters["T"]))
