"""A method can read what stands before an activation, hear a teacher in training mode, and cut the student in two."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs
from tests.conftest import Learn, MakeBatch


class Overhaul(Method):
    """Features before their activation, the teacher's clipped at a margin that its batch norm tells."""

    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.mine, self.theirs = (chain.before_activation(chain.stages[-1]) for chain in (student, teacher))
        norm = teacher.norm_at(self.theirs)
        assert norm is not None
        mean, deviation = norm.bias.detach(), norm.weight.detach().abs()
        normal = torch.distributions.Normal(0, 1)
        below = -mean / deviation
        margin = mean - deviation * normal.log_prob(below).exp() / normal.cdf(below)  # of what lies below zero
        self.register_buffer("margin", margin.view(-1, 1, 1))
        width_in, width = student.form(self.mine).channels, teacher.form(self.theirs).channels
        self.connector = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))
        self.heard: list[tuple[Tensor, Trace]] = []

    def needs(self) -> Needs:
        return Needs(student=frozenset({self.mine}), teacher=frozenset({2, self.theirs}), teacher_train=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        self.heard.append((batch.images, teacher))
        target = torch.maximum(teacher[self.theirs], self.get_buffer("margin"))
        return {"ofd": 1e-3 * F.mse_loss(self.connector(student[self.mine]), target)}


def test_overhaul_reads_before_activations_and_hears_batch_statistics(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn
) -> None:
    method = Overhaul(student, teacher, facts)
    start = copy.deepcopy(teacher.state_dict())
    learn(student, teacher, method)

    images, heard = method.heard[0]
    assert heard[method.theirs].min() < 0
    # The stem's norm has yet its first scale and shift: what it lets through is standardised, channel by channel.
    channels = heard[2].transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.std(1), torch.ones(len(channels)), atol=1e-2, rtol=0)

    assert not torch.allclose(heard[2], teacher.trace(images, taps={2})[2], atol=0.1)
    assert not any(module.training for module in teacher.modules())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, start[key]), key


class FeatureOnly(Method):
    """One feature, and cross-entropy for what lies behind it alone."""

    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, cut: bool, weight: float = 1.0) -> None:
        super().__init__(student, teacher, facts)
        self.depth = student.stages[2]
        self.cut = self.depth if cut else None
        self.weight = weight
        self.projector = nn.Conv2d(student.form(self.depth).channels, teacher.form(teacher.stages[2]).channels, 1)

    def needs(self) -> Needs:
        stage = frozenset({self.teacher.stages[2]})
        return Needs(student=frozenset({self.depth}), teacher=stage, cut=self.cut)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        theirs = teacher[self.teacher.stages[2]]
        return {"feature": self.weight * F.mse_loss(self.projector(student[self.depth]), theirs)}


def before(chain: Chain, depth: int) -> dict[str, Tensor]:
    """The parameters of what comes before a depth, batch norms' among them."""
    theirs = {id(parameter) for link in chain.links[:depth] for parameter in link.parameters()}
    return {name: p for name, p in chain.network.named_parameters() if id(p) in theirs}


@pytest.mark.parametrize("cut", [True, False])
def test_a_cut_stops_cross_entropy_and_lets_knowledge_through(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, cut: bool
) -> None:
    method = FeatureOnly(student, teacher, facts, cut=cut)
    front = before(student, method.depth)
    assert {"conv1.weight", "bn1.weight", "bn1.bias"} < front.keys() and "fc.weight" not in front
    batch = make_batch()
    terms = Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch))

    terms["task"].backward(retain_graph=True)
    assert student.classifier.weight.grad.any()
    for name, parameter in front.items():
        assert (parameter.grad is None) == cut, name

    student.zero_grad()
    terms["feature"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in front.values())


@pytest.mark.parametrize("cut", [True, False])
def test_training_behind_a_cut_leaves_what_is_before_it(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn, cut: bool
) -> None:
    method = FeatureOnly(student, teacher, facts, cut=cut, weight=0.0)
    start = copy.deepcopy(student.state_dict())
    learn(student, teacher, method)
    assert not torch.equal(student.classifier.weight, start["fc.weight"])
    for name, parameter in before(student, method.depth).items():
        assert torch.equal(parameter, start[name]) == cut, name
