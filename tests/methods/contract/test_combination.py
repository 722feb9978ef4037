"""Several methods in one: their terms side by side, cross-entropy once."""

import pytest
import torch

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Facts, Method
from kdbench.refusal import Refusal
from tests.conftest import MakeBatch


def loss(student: Chain, method: Method, make_batch: MakeBatch) -> torch.Tensor:
    batch = make_batch(dtype=torch.float64)
    terms = Step(student, method)(batch, LiveTeacher(method.teacher, method.needs())(batch))
    return torch.stack(list(terms.values())).sum()


@pytest.fixture
def double(student: Chain, teacher: Chain) -> tuple[Chain, Chain]:
    return student.double(), teacher.double()


def test_cross_entropy_is_counted_once(double: tuple[Chain, Chain], facts: Facts, make_batch: MakeBatch) -> None:
    student, teacher = double
    ce = create("ce", student, teacher, facts)
    kd = create("kd", student, teacher, facts, ce_weight=0.0)
    both = create("ce+kd", student, teacher, facts)
    together = loss(student, both, make_batch)
    torch.testing.assert_close(together, loss(student, ce, make_batch) + loss(student, kd, make_batch))


def test_members_take_their_own_parameters_and_cross_entropy_its_weight(
    double: tuple[Chain, Chain], facts: Facts, make_batch: MakeBatch
) -> None:
    student, teacher = double
    kd = create("kd", student, teacher, facts, temperature=2.0, weight=3.0, ce_weight=0.5)
    both = create("ce+kd", student, teacher, facts, ce_weight=0.5, kd={"temperature": 2.0, "weight": 3.0})
    torch.testing.assert_close(loss(student, both, make_batch), loss(student, kd, make_batch))


@pytest.mark.parametrize(
    ("name", "params", "term"),
    [
        ("blockwise", {}, "stones"),
        ("multilevel", {}, "strong_task"),
        ("standardized", {"method": "multilevel"}, "strong_task"),
    ],
)
def test_cross_entropy_has_one_weight_wherever_a_member_takes_it(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, name: str, params: dict[str, str], term: str
) -> None:
    def value(ce_weight: float) -> float:
        torch.manual_seed(0)
        method = create(f"{name}+at", student.eval(), teacher, facts, ce_weight=ce_weight, **{name: params})
        batch = make_batch(method.needs())
        return Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch))[f"{name}.{term}"].item()

    assert value(0.1) == pytest.approx(value(1.0) / 10, rel=1e-5)


def test_members_that_ask_for_two_manners_of_the_teacher_are_refused(
    student: Chain, teacher: Chain, facts: Facts
) -> None:
    """There is one answer for all: logits by a batch's statistics are not those that kd is made for."""
    with pytest.raises(Refusal, match=r"'ofd\+kd' cannot be combined: .* statistics of the batch"):
        create("ofd+kd", student, teacher, facts)
    create("ofd+ce", student, teacher, facts)
