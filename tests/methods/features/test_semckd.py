"""Which layer learns from which is found out by how images resemble each other there."""

from dataclasses import replace

import pytest
import torch

from kdbench.benchmark import networks
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.features.semckd import calibration, similarities
from kdbench.methods.method import Facts
from tests.benchmark.networks.test_pairs import step
from tests.conftest import Golden, MakeBatch
from tests.methods.golden_methods import heard, losses, maps, network
from tests.pairs import STANDARD

FACTS = Facts(classes=5, labels=torch.arange(5), batch=2, steps=1, epochs=1)


@pytest.mark.golden("SemCKD")
def test_attention_projectors_and_loss_are_the_authors(golden: Golden, make_batch: MakeBatch) -> None:
    mine, theirs = maps(golden, "s"), maps(golden, "t")
    facts = replace(FACTS, batch=golden.parameters["batch"])
    method = create("semckd", network([mine[0], *mine]), network([theirs[0], *theirs]), facts, weight=1.0)  # and a stem
    golden.check(losses(method, golden, heard(method, mine, theirs), make_batch())["semckd"])


def test_a_student_layer_attends_most_to_the_teacher_layer_that_is_like_it() -> None:
    layers = torch.eye(3)[None].expand(4, 3, 3)  # three layers that have nothing in common
    attention = calibration(layers[:, :2], layers)
    assert attention.shape == (4, 2, 3)
    assert torch.allclose(attention.sum(2), torch.ones(4, 2))
    assert attention.argmax(2).tolist() == [[0, 1]] * 4


def test_a_batch_that_is_not_full_is_as_similar_as_nothing_to_what_is_missing() -> None:
    layer = torch.randn(3, 2, 4, 4)
    rows = similarities(layer, 5)
    assert rows.shape == (3, 5) and not rows[:, 3:].any()
    assert torch.allclose(rows[1, 2], (layer[1] * layer[2]).sum())


def test_the_term_is_the_attended_distance(student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch) -> None:
    """With equal attention it is the mean over all pairs of layers."""
    method = create("semckd", student, teacher, facts, weight=1.0)
    for perceptron in (*method.queries, *method.keys):
        torch.nn.init.zeros_(perceptron[-1].weight)
        torch.nn.init.ones_(perceptron[-1].bias)
    batch = make_batch(method.needs())
    trace, heard = student.trace(batch.images, method.needs().student), LiveTeacher(teacher, method.needs())(batch)
    total = 0.0
    for row, one in zip(method.projectors, method.mine, strict=True):
        for projector, other in zip(row, method.theirs, strict=True):
            size = min(trace[one].shape[2], heard[other].shape[2])
            shrink = torch.nn.AdaptiveAvgPool2d(size)
            total += float((projector(shrink(trace[one])) - shrink(heard[other])).square().mean().detach())
    pairs = len(method.mine) * len(method.theirs)
    assert float(method.losses(trace, heard, batch)["semckd"].detach()) == pytest.approx(total / pairs, rel=1e-5)


def test_no_standard_pair_is_refused_or_takes_billions_of_parameters() -> None:
    for teacher_name, student_name in STANDARD:
        student, teacher = (networks.form(name, 5, (3, 32, 32)) for name in (student_name, teacher_name))
        with torch.device("meta"):
            method = create("semckd", student, teacher, FACTS)
        assert len(method.mine) >= 3 and len(method.theirs) >= 3
        assert sum(p.numel() for p in method.parameters()) < 3e8


@pytest.mark.parametrize(
    "pair", [("wrn_40_2", "ShuffleV1"), ("resnet56", "resnet20"), ("timm:deit_tiny_patch16_224", "wrn_16_1")]
)
def test_a_step_is_taken(pair: tuple[str, str]) -> None:
    torch.manual_seed(0)
    teacher, student = (networks.build(name, 5, (3, 32, 32)) for name in pair)
    assert step(student, teacher, "semckd")["semckd"] > 0
