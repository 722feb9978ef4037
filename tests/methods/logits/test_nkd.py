"""Normalised KD."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kdbench.methods.chain import Chain
from kdbench.methods.logits.nkd import NKD, normalised
from kdbench.methods.method import Facts
from tests.conftest import Golden, MakeBatch
from tests.methods.logits.traces import trace


@pytest.mark.golden("NKD_T1", "NKD_T3")
def test_both_terms_are_the_authors(
    golden: Golden, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    """With the values that their code takes on ImageNet and on CIFAR-100."""
    method = NKD(student, teacher, facts, gamma=golden.parameters["gamma"], temperature=golden.parameters["T"])
    batch = replace(make_batch(), labels=golden["y"])
    golden.check(sum(method.losses(trace(golden["zs"]), trace(golden["zt"]), batch).values()))


def test_the_defaults_are_those_of_cifar_100(student: Chain, teacher: Chain, facts: Facts) -> None:
    method = NKD(student, teacher, facts)
    assert (method.gamma, method.temperature) == (3.5, 3.0)


def test_the_other_classes_do_not_see_the_labelled_one() -> None:
    s, t = torch.randn(2, 6, 5, dtype=torch.float64)
    s.requires_grad_()
    labels = torch.tensor([0, 4, 2, 1, 3, 0])
    labelled = F.one_hot(labels, 5).bool()
    _, rest = normalised(s, t, labels, 2.0)
    rest.backward()
    assert not s.grad[labelled].any() and (s.grad[~labelled] != 0).all()


def test_a_teacher_that_is_sure_and_right_gives_cross_entropy() -> None:
    s, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 0])
    target, _ = normalised(s, 100.0 * F.one_hot(labels, 5), labels, 1.0)
    torch.testing.assert_close(target, F.cross_entropy(s, labels))
