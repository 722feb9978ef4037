"""Block-wise logit distillation: its loss told a second time, its stepping stones, and where its gradients go."""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdbench.benchmark.networks import build
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher, frozen
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.blockwise import Blockwise, agreement, discounted
from kdbench.methods.method import Batch, Facts
from kdbench.refusal import Refusal
from tests.conftest import MakeBatch, seeded

Array = np.ndarray[Any, Any]


def made(student: Chain, teacher: Chain, facts: Facts, **params: Any) -> Blockwise:
    torch.manual_seed(3)
    return Blockwise(student, frozen(teacher), facts, **params)


def doubled(student: Chain, teacher: Chain, facts: Facts, **params: Any) -> Blockwise:
    return made(student.double(), teacher.double(), facts, **params).double()


def losses(student: Chain, method: Blockwise, batch: Batch) -> dict[str, Tensor]:
    return Step(student, method)(batch, LiveTeacher(method.teacher, method.needs())(batch), task=False)


# -- the loss ---------------------------------------------------------------------------------------------------------


def log_softmax(z: Array) -> Array:
    shifted: Array = z - z.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def kl(mine: Array, target: Array, t: float) -> float:
    p, q = log_softmax(target / t), log_softmax(mine / t)
    return float(t * t * (np.exp(p) * (p - q)).sum() / len(mine))


def told_again(student: Array, stones: list[Array], teacher: Array, labels: Array, t: float) -> dict[str, float]:
    n, rows, ensemble = len(stones), np.arange(len(labels)), np.mean(stones, axis=0)
    terms = {"stones": 0.0, "distill": kl(student, teacher, t), "cross": kl(student, ensemble, t)}
    for i, stone in enumerate(stones, start=1):
        terms["stones"] += -log_softmax(stone)[rows, labels].mean() / 2 ** (n - i)
        terms["distill"] += kl(stone, teacher, t) / 2 ** (n - i)
        terms["cross"] += kl(stone, ensemble, t)
    return terms


def walked(method: Blockwise, trace: Trace) -> list[Array]:
    """What the stepping stones say, link by link."""
    said = []
    for connector, (mine, theirs) in zip(method.connectors, method.blocks, strict=True):
        value = connector(trace[mine])
        for link in method.teacher.links[theirs:]:
            value = link(value)
        said.append(value.detach().numpy())
    return said


@pytest.mark.parametrize("detach", [True, False])
def test_the_loss_is_what_a_second_telling_makes_of_the_logits(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, detach: bool
) -> None:
    weights = {"ce_weight": 0.5, "distill_weight": 0.3, "cross_weight": 0.7}
    method = doubled(student, teacher, facts, **weights, temperature=3.0, detach_ensemble=detach)
    batch = make_batch(dtype=torch.float64)
    trace = student.trace(batch.images, method.needs().student)
    heard = teacher.trace(batch.images)
    stones = walked(method, trace)
    assert len(stones) == 3

    expected = told_again(trace.logits.detach().numpy(), stones, heard.logits.numpy(), batch.labels.numpy(), t=3.0)
    terms = method.losses(trace, heard, batch)
    assert list(terms) == list(expected)
    for name, weight in zip(expected, weights.values(), strict=True):
        assert terms[name].item() == pytest.approx(weight * expected[name], rel=1e-12), name


def test_the_gradient_is_the_slope_of_the_loss(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = doubled(student, teacher, facts, detach_ensemble=False)
    batch = make_batch(dtype=torch.float64)
    weights = [*student.network.parameters(), *method.parameters()]
    gradients = torch.autograd.grad(sum(losses(student, method, batch).values()), weights)
    torch.manual_seed(0)
    way, step = [torch.randn_like(weight) for weight in weights], 1e-7
    slope = sum((gradient * along).sum() for gradient, along in zip(gradients, way, strict=True))

    def further(steps: float) -> Tensor:
        with torch.no_grad():
            for weight, along in zip(weights, way, strict=True):
                weight += steps * step * along
            return sum(losses(student, method, batch).values())

    ahead, behind = further(1), further(-2)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-5, atol=0)


def test_a_detached_ensemble_is_a_fixed_target_and_another_is_pulled_too() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, 5, dtype=torch.float64).requires_grad_()  # the student's, then three stones'
    student, *stones = logits
    (fixed,) = torch.autograd.grad(agreement(student, stones, 4.0, detach=True), logits)
    target = (torch.stack(stones).mean(0) / 4).softmax(1)
    torch.testing.assert_close(fixed, 4 * ((logits / 4).softmax(2) - target) / 6)

    student, *stones = logits
    loose = agreement(student, stones, 4.0, detach=False)
    (moved,) = torch.autograd.grad(loose, logits)
    assert not torch.allclose(moved[1:], fixed[1:])
    torch.testing.assert_close(moved[0], fixed[0])
    torch.testing.assert_close(loose, agreement(student, stones, 4.0, detach=True))
    assert torch.autograd.gradcheck(lambda z: agreement(z[0], list(z[1:]), 4.0, detach=False), logits)


def test_a_stone_weighs_half_of_the_one_behind_it() -> None:
    assert discounted([torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0)]).item() == 105.25


# -- the stepping stones ----------------------------------------------------------------------------------------------


def coloured(batch: Batch) -> Batch:
    """Two images, large enough for any network."""
    views = (torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)),)
    return replace(batch, views=views, labels=batch.labels[:2], index=batch.index[:2])


def network(name: str, seed: int) -> Chain:
    torch.manual_seed(seed)
    return build(name, 10, (3, 32, 32))


@pytest.mark.parametrize("name", ["resnet14x0.5", "vgg8", "wrn_10_1", "timm:test_vit"])
def test_a_student_that_is_the_teacher_has_stones_that_answer_like_the_teacher(
    name: str, facts: Facts, make_batch: MakeBatch
) -> None:
    teacher = network(name, 2)
    student = copy.deepcopy(teacher).eval()
    method = doubled(student, teacher, facts)
    for connector in method.connectors:
        nn.init.eye_(connector.project.weight[..., 0, 0])
        connector.norm = nn.Identity()
    trace = student.trace(coloured(make_batch()).images.double(), method.needs().student)
    stones = method.stones(trace)
    assert len(stones) >= 3
    for stone in stones:
        torch.testing.assert_close(stone, trace.logits)


@pytest.mark.parametrize(
    ("name", "answers_to"),
    [
        ("resnet8", "timm:test_vit"),
        ("timm:test_vit", "resnet8"),
        ("fo_vit_ett", "timm:test_vit"),  # a class token that the student has none of
        ("timm:test_vit2", "timm:test_vit"),
        ("fo_vit_ett", "resnet8"),
    ],
)
def test_networks_of_other_kinds_stand_in_for_each_other(
    name: str, answers_to: str, facts: Facts, make_batch: MakeBatch
) -> None:
    student, teacher = network(name, 1), network(answers_to, 2)
    method = made(student, teacher, facts)
    terms = losses(student, method, coloured(make_batch()))
    terms["stones"].backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.links[0].parameters())


def passed(chain: Chain) -> Counter[int]:
    """How many images each link sees from now on."""
    seen: Counter[int] = Counter()

    def count(depth: int, link: nn.Module, values: tuple[Tensor, ...]) -> None:
        seen[depth] += len(values[0])

    for depth, link in enumerate(chain.links):
        link.register_forward_pre_hook(partial(count, depth))
    return seen


@pytest.mark.parametrize("stones", [1, 2, None])
def test_nothing_is_computed_twice_and_fewer_stones_cost_less(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, stones: int | None
) -> None:
    method, batch = made(student, teacher, facts, stones=stones), make_batch()
    mine, theirs = passed(student), passed(teacher)
    losses(student, method, batch)
    size = len(batch.labels)
    assert mine == dict.fromkeys(range(len(student)), size)
    tails = [range(start, len(teacher)) for start in teacher.stages[-(stones or 3) :]]
    assert theirs == {depth: size * (1 + sum(depth in tail for tail in tails)) for depth in range(len(teacher))}


def test_the_lighter_variant_keeps_the_deepest_stones_and_their_weights(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student, batch = student.eval(), make_batch()
    full, light = made(student, teacher, facts), made(student, teacher, facts, stones=2)
    light.connectors = full.connectors[1:]
    said = full.stones(student.trace(batch.images, full.needs().student))
    assert light.needs().student == set(student.stages[-2:])
    expected = batch.task(said[1]) / 2 + batch.task(said[2])
    torch.testing.assert_close(losses(student, light, batch)["stones"], expected)


# -- the gradients, and the precision ---------------------------------------------------------------------------------


def test_stones_reach_all_that_lies_before_their_taps_and_nothing_of_the_teacher(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = made(student, teacher, facts)
    losses(student, method, make_batch())["stones"].backward()
    last = max(method.needs().student)
    before = [p for link in student.links[:last] for p in link.parameters()]
    behind = [p for link in student.links[last:] for p in link.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in (*before, *method.parameters()))
    assert behind and all(p.grad is None for p in behind)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_last_stone_alone_reaches_only_its_own_connector(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = made(student, teacher, facts)
    trace = student.trace(make_batch().images, method.needs().student)
    method.stones(trace)[-1].sum().backward()
    assert [connector.project.weight.grad is not None for connector in method.connectors] == [False, False, True]


def test_connectors_compute_in_fp32_where_the_teachers_tail_does_not(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = made(student, teacher, facts)
    student.precision = teacher.precision = torch.bfloat16
    seen: dict[str, torch.dtype] = {}
    method.connectors[0].project.register_forward_hook(lambda *call: seen.update(connector=call[2].dtype))
    teacher.classifier.register_forward_hook(lambda *call: seen.update(tail=call[2].dtype))
    losses(student, method, make_batch())
    assert seen == {"connector": torch.float32, "tail": torch.bfloat16}


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"temperature": 0.0}, r"^blockwise: temperature must be above 0, got 0\.0$"),
        ({"stones": 0}, r"^blockwise: stones must be from 1 to this pair's 3 blocks, got 0$"),
        ({"stones": 4}, r"^blockwise: stones must be from 1 to this pair's 3 blocks, got 4$"),
    ],
)
def test_wrong_values_are_refused(params: dict[str, Any], says: str, facts: Facts) -> None:
    with pytest.raises(Refusal, match=says):
        made(seeded("resnet8x0.25", 1), seeded("resnet14x0.5", 2), facts, **params)
