"""Activation boundaries: on which side of zero a neuron is."""

import pytest
import torch
from torch import nn

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain
from kdbench.methods.features.abound import ActivationBoundaries, boundary_loss
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn, MakeBatch
from tests.methods.golden_methods import FACTS, heard, losses, maps, network


@pytest.mark.golden("AB")
def test_the_phase_of_its_own_has_the_authors_loss(golden: Golden, make_batch: MakeBatch) -> None:
    mine, theirs = maps(golden, "s"), maps(golden, "t")
    method = ActivationBoundaries(network(mine), network(theirs), FACTS)
    golden.check(losses(method, golden, heard(method, mine, theirs), make_batch(phase="ab"))["boundary"])


def test_only_what_is_not_beyond_the_margin_on_the_teachers_side_costs() -> None:
    teacher = torch.tensor([[3.0, 3.0, 0.0, -2.0, -2.0]])
    student = torch.tensor([[1.5, 0.5, 0.5, -0.5, -1.5]])
    # beyond the margin; short of it by ½; on the wrong side (zero is not active), 1½ away; short by ½; beyond
    assert boundary_loss(student, teacher, 1.0).item() == pytest.approx(0.25 + 2.25 + 0.25)
    assert boundary_loss(student, 100 * teacher, 1.0) == boundary_loss(student, teacher, 1.0)
    assert boundary_loss(student.expand(4, -1), teacher.expand(4, -1), 1.0) == boundary_loss(student, teacher, 1.0)


def test_values_are_read_before_their_activation(student: Chain, teacher: Chain, facts: Facts) -> None:
    method = ActivationBoundaries(student, teacher, facts)
    assert all(student.norm_at(mine) and teacher.norm_at(theirs) for mine, theirs in method.pairs)


def test_a_network_without_batch_norm_is_read_at_its_stages(facts: Facts) -> None:
    vit, cnn = (networks.build(name, classes=10, image=(3, 32, 32), device="meta") for name in ("fo_vit_ett", "vgg8"))
    with torch.device("meta"):
        method = ActivationBoundaries(cnn, vit, facts)
    assert {theirs for _, theirs in method.pairs} <= set(vit.stages)


def test_a_stage_counts_half_of_the_next(facts: Facts, student: Chain, make_batch: MakeBatch) -> None:
    """With itself as its teacher nothing is on the wrong side, and the sum can be worked out by hand."""
    method = ActivationBoundaries(student, student, facts)
    assert all(isinstance(connect, nn.Identity) for connect in method.connectors)
    trace = student.trace(make_batch().images, method.needs().student)
    losses = [boundary_loss(trace[mine], trace[mine], 1.0) for mine, _ in method.pairs]
    expected = 0.003 * (losses[0] / 4 + losses[1] / 2 + losses[2])
    torch.testing.assert_close(method.losses(trace, trace, make_batch(phase="ab"))["boundary"], expected)
    assert method.losses(trace, trace, make_batch()) == {}


def test_boundaries_are_taught_first(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    torch.manual_seed(0)
    history = learn(student, teacher, ActivationBoundaries(student, teacher, facts, initial_epochs=10))
    assert history[9].terms["boundary"] < 0.8 * history[0].terms["boundary"]
    assert history[-1].terms.keys() == {"task"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"margin": 0.0}, r"ab: margin must be above 0, got 0\.0"),
        ({"initial_weight": -1.0}, r"ab: initial_weight must be above 0, got -1\.0"),
        ({"initial_epochs": 0}, "ab: initial_epochs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(
    params: dict[str, float], message: str, student: Chain, teacher: Chain, facts: Facts
) -> None:
    with pytest.raises(Refusal, match=message):
        ActivationBoundaries(student, teacher, facts, **params)  # type: ignore[arg-type]
