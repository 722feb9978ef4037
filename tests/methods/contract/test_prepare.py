"""A method can look at the training set before the first step, and is not asked again when a run goes on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.combination import Combination
from kdbench.methods.logits.standardized import Standardized
from kdbench.methods.method import METHODS, Batch, Facts, Method
from kdbench.methods.survey import survey
from tests.conftest import Learn


class Centred(Method):
    """The teacher's logits, less their mean over the training set."""

    source = "logits"
    mean: Tensor

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.facts = facts
        self.prepared = 0
        self.register_buffer("mean", torch.zeros(teacher.classes))

    def prepare(self) -> None:
        self.prepared += 1
        rows = torch.arange(self.facts.size)
        self.mean.copy_(torch.cat([trace.logits for trace in survey(self.teacher, self.facts, rows)]).mean(0))

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        assert self.mean.any(), "the first step came before prepare()"
        return {"centred": (student.logits - teacher.logits + self.mean).square().mean()}


def test_it_is_prepared_once_and_a_run_that_goes_on_remembers(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn, tmp_path: Path
) -> None:
    method = Centred(student, teacher, facts)
    learn(student, teacher, method, checkpoints=Checkpoints(tmp_path, every=0))
    assert method.prepared == 1

    again = Centred(student, teacher, facts)
    learn(student, teacher, again, checkpoints=Checkpoints(tmp_path, every=0))
    assert again.prepared == 0
    assert torch.equal(again.mean, method.mean)


def test_members_of_a_combination_are_prepared(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    member = Centred(student, teacher, facts)
    learn(student, teacher, Combination(student, teacher, facts, {"centred": member}, ce_weight=None))
    assert member.prepared == 1


def test_a_method_that_sees_standardised_logits_is_prepared(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS._things, "centred", Centred)
    method = Standardized(student, teacher, facts, method="centred")
    learn(student, teacher, method)
    assert method.inner.prepared == 1
