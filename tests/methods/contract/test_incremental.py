"""A teacher that knows fewer classes than the student: the method sees the shared ones, the task all of them."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kdbench.benchmark.networks import build
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.logits.kd import KD
from kdbench.methods.method import METHODS, Facts
from tests.conftest import Learn, MakeBatch

OLD = 6


def test_the_method_sees_old_classes_and_the_task_all(student: Chain, facts: Facts, make_batch: MakeBatch) -> None:
    before = build("resnet8x0.25", OLD, (1, 8, 8))
    method = KD(student, before, facts, weight=1.0, ce_weight=1.0)
    batch = make_batch()
    assert (batch.labels >= OLD).any()
    student.eval()
    terms = Step(student, method, shared=OLD)(batch, LiveTeacher(before, method.needs())(batch))

    logits = student(batch.images)
    torch.testing.assert_close(terms["kd"], softened_kl(logits[:, :OLD], before(batch.images), 4.0))
    torch.testing.assert_close(terms["task"], F.cross_entropy(logits, batch.labels))

    terms["kd"].backward()
    assert student.classifier.weight.grad[:OLD].any() and not student.classifier.weight.grad[OLD:].any()


def test_new_classes_are_learned_from_labels_alone(student: Chain, facts: Facts, learn: Learn) -> None:
    before = build("resnet8x0.25", OLD, (1, 8, 8))
    start = student.classifier.weight.detach().clone()
    learn(student, before, KD(student, before, facts, ce_weight=0.0), shared=OLD)
    moved = (student.classifier.weight != start).any(1)
    assert moved.tolist() == [True] * OLD + [False] * (10 - OLD)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_that_reads_no_labels_teaches_old_classes_alone(
    student: Chain, facts: Facts, make_batch: MakeBatch, name: str
) -> None:
    before = build("resnet8x0.25", OLD, (1, 8, 8))
    method = create(name, student, before, replace(facts, continued=True))
    needs = method.needs()
    if needs.labels:
        pytest.skip("a plan refuses it")
    method.prepare()
    batch = make_batch(needs)
    terms = Step(student, method, shared=OLD)(batch, LiveTeacher(before, needs)(batch), task=False)
    assert all(term.isfinite() for term in terms.values())
    if terms:
        sum(terms.values()).backward()
        gradient = student.classifier.weight.grad
        assert gradient is None or not gradient[OLD:].any()


@pytest.mark.parametrize("name", ["feature_only", "fitnet", "ofd", "weighted_features"])
def test_a_student_that_has_not_moved_from_its_teacher_has_nothing_to_learn_from_its_features(
    student: Chain, facts: Facts, make_batch: MakeBatch, name: str
) -> None:
    """Between a network and its own past no projector stands."""
    before = copy.deepcopy(student)
    facts = replace(facts, continued=True)  # at which no quality of a layer is asked for
    method = create(name, student, before, facts, **METHODS[name].resolve(student, before, facts))
    student.train(method.needs().teacher_train)
    assert not list(method.parameters())
    batch = make_batch(method.needs())
    terms = Step(student, method)(batch, LiveTeacher(before, method.needs())(batch), task=False)
    assert sum(terms.values()) == 0
