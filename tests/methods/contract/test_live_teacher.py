"""A method can run the teacher itself, and differentiate through both networks by the images."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import Batch, Facts, Method, Needs
from tests.conftest import Learn, MakeBatch, seeded


class SteppingStone(Method):
    """The teacher's tail answers to the student's feature."""

    source = "logits"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.mine, self.theirs = student.stages[2], teacher.stages[2]
        width_in, width = student.form(self.mine).channels, teacher.form(self.theirs).channels
        self.connector = nn.Conv2d(width_in, width, 1, bias=False)
        if width_in == width:
            nn.init.dirac_(self.connector.weight)

    def needs(self) -> Needs:
        return Needs(student=frozenset({self.mine}), labels=True, live_teacher=True)

    def stone(self, student: Trace) -> Tensor:
        return self.teacher.resume(self.connector(student[self.mine]), after=self.theirs)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        stone = self.stone(student)
        return {"stones": batch.task(stone), "stone": softened_kl(stone, teacher.logits, 4.0)}


def test_gradient_flows_through_the_teachers_tail_into_student_and_connector(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = SteppingStone(student, teacher, facts)
    batch = make_batch()
    terms = Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch), task=False)
    terms["stone"].backward()
    assert method.connector.weight.grad is not None and method.connector.weight.grad.any()
    assert student.links[0].weight.grad.any()
    assert student.classifier.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_stone_of_the_teachers_own_feature_answers_like_the_teacher(
    teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student = copy.deepcopy(teacher).eval()
    method = SteppingStone(student, teacher.eval(), facts)
    trace = student.trace(make_batch().images, taps={method.mine})
    assert torch.equal(method.stone(trace), teacher(make_batch().images))


def test_stones_train_in_the_loop(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    method = SteppingStone(student, teacher, facts)
    start = [weight.detach().clone() for weight in (method.connector.weight, student.links[0].weight)]
    learn(student, teacher, method)
    assert not torch.equal(method.connector.weight, start[0])
    assert not torch.equal(student.links[0].weight, start[1])


class Jacobian(Method):
    """The gradients of the likeliest logits by the image, matched."""

    source = "gradients"

    def needs(self) -> Needs:
        return Needs(input_grad=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        (theirs,) = torch.autograd.grad(teacher.logits.amax(1).sum(), batch.images)
        (mine,) = torch.autograd.grad(student.logits.amax(1).sum(), batch.images, create_graph=True)
        return {"jacobian": F.mse_loss(mine, theirs)}


def test_jacobian_matching_is_differentiated_twice(facts: Facts, make_batch: MakeBatch) -> None:
    student, teacher = seeded("resnet8x0.25", 1).double(), seeded("resnet14x0.5", 2).double()
    method = Jacobian(student, teacher, facts)
    ask = LiveTeacher(teacher, method.needs())

    def loss() -> Tensor:
        batch = make_batch(method.needs(), dtype=torch.float64)
        return Step(student, method)(batch, ask(batch), task=False)["jacobian"]

    weights = list(student.network.parameters())
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    torch.manual_seed(0)
    way, step = [torch.randn_like(weight) for weight in weights], 1e-7
    slope = sum((gradient * along).sum() for gradient, along in zip(gradients, way, strict=True))

    def further(steps: float) -> Tensor:
        with torch.no_grad():
            for weight, along in zip(weights, way, strict=True):
                weight += steps * step * along
        return loss().detach()

    ahead, behind = further(1), further(-2)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-5, atol=0)


def test_jacobian_matching_trains_in_the_loop(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    start = student.links[0].weight.detach().clone()
    history = learn(student, teacher, Jacobian(student, teacher, facts, ce_weight=0.0))
    assert history[-1].terms["jacobian"] > 0
    assert not torch.equal(student.links[0].weight, start)
