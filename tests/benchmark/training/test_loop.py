"""The one training loop: what it shows to methods, what it trains, what it leaves behind."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from kdbench.benchmark.data import Dataset
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.randomness import stream
from kdbench.benchmark.training.loop import Diverged, Epoch
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs, Phase
from tests.conftest import train

Make = Callable[..., Chain]
Net = dict[str, Tensor]


class Spy(Method):
    """Writes down what it is shown; ``weight`` lets it pull on the student or not, ``wants`` is what it needs."""

    source = "labels"

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, *, weight: float = 0.0, wants: Needs | None = None
    ) -> None:
        super().__init__(student, teacher, facts)
        self.weight, self.wants = weight, replace(wants or Needs(), labels=True)
        self.student = (student,)
        self.batches: list[Batch] = []
        self.traces: list[tuple[Trace, Trace]] = []
        self.modes: list[tuple[str, int, bool, bool]] = []
        self.noise: list[float] = []
        self.own = nn.Parameter(torch.ones(()))

    def needs(self) -> Needs:
        return self.wants

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch)
        self.traces.append((student, teacher))
        self.modes.append((batch.phase, int(batch.epoch), self.student[0].training, self.training))
        self.noise.append(float(torch.rand((), generator=batch.generator)))
        return {"spy": self.weight * self.own * student.logits.square().mean()}


def spied(student: Chain, data: Dataset, recipe: Recipe, seed: int = 0, **how: Any) -> tuple[Spy, list[Epoch]]:
    teacher = how.pop("teacher", None)
    phases, after = how.pop("phases", ()), how.pop("checkpoints", None)
    spy = Spy(student, teacher or student, recipe.facts(4, data.train.labels), **how)
    spy.phases = phases
    return spy, train(student, teacher, spy, data, recipe, seed, checkpoints=after)


def same(a: Net, b: Net) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def state(chain: Chain) -> Net:
    return copy.deepcopy(dict(chain.state_dict()))


def shown(spy: Spy) -> tuple[list[Tensor], list[Tensor], list[float]]:
    return [batch.index for batch in spy.batches], [batch.images for batch in spy.batches], spy.noise


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- comparisons are paired -------------------------------------------------------------------------------------------


def test_two_methods_with_one_seed_see_the_same_weights_images_and_order(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    first, second = make_student(stream("student", 7)), make_student(stream("student", 7))
    assert same(state(first), state(second))
    idle, _ = spied(first, dataset, recipe, seed=7)
    torch.rand(3)  # what else draws must not matter
    busy, _ = spied(second, dataset, recipe, seed=7, weight=1.0)
    (a, b, c), (x, y, z) = shown(idle), shown(busy)
    assert equal(a, x)
    assert equal(b, y)
    assert c == z
    assert not same(state(first), state(second))  # though they learn differently


def test_different_seeds_see_different_things(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    assert not same(state(make_student(stream("student", 7))), state(make_student(stream("student", 8))))
    (a, b, c), (x, y, z) = (shown(spied(make_student(), dataset, recipe, seed=seed)[0]) for seed in (7, 8))
    assert not any(torch.equal(p, q) for p, q in zip(a, x, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(b, y, strict=True))
    assert not set(c) & set(z)


def test_an_initial_phase_has_an_order_of_its_own_and_leaves_that_of_the_main_one(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    with_phase, _ = spied(make_student(), dataset, recipe, phases=(Phase("first", 1),))
    without, _ = spied(make_student(), dataset, recipe)
    (a, b, c), (x, y, z) = shown(with_phase), shown(without)
    assert equal(a[4:], x)
    assert equal(b[4:], y)
    assert c[4:] == z
    assert not any(torch.equal(p, q) for p, q in zip(a[:4], x[:4], strict=True))
    assert not set(c[:4]) & set(z)


def test_every_image_comes_once_an_epoch_with_its_own_label_in_an_order_of_the_epoch(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    spy, _ = spied(make_student(), dataset, recipe)
    assert [len(batch.index) for batch in spy.batches] == [16, 16, 16, 12] * 2
    epochs = [torch.cat([batch.index for batch in spy.batches[start : start + 4]]).tolist() for start in (0, 4)]
    assert [sorted(order) for order in epochs] == [list(range(60))] * 2
    assert epochs[0] != epochs[1]
    for batch in spy.batches:
        assert torch.equal(batch.labels, dataset.train.labels[batch.index])
    assert len(set(spy.noise)) == 8  # the generator is another one at every step


def test_augmentation_is_what_the_recipe_says(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    spy, _ = spied(make_student(), dataset, recipe)
    plain, _ = spied(make_student(), dataset, msgspec.structs.replace(recipe, augment=False))
    whole = Normalise(dataset, torch.device("cpu"))(dataset.train.images)
    assert all(torch.equal(batch.images, whole[batch.index]) for batch in plain.batches)
    assert not any(torch.equal(batch.images, whole[batch.index]) for batch in spy.batches)


# -- what is trained --------------------------------------------------------------------------------------------------


def test_student_and_method_are_in_train_mode_in_every_epoch(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    spy, history = spied(make_student().eval(), dataset, recipe)
    assert all(epoch.score for epoch in history)  # it was evaluated in between
    assert spy.modes == [("main", 1, True, True)] * 4 + [("main", 2, True, True)] * 4


def test_a_phase_trains_what_it_says_and_is_not_evaluated(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    student = make_student()
    begun, seen = state(student), []
    adapter = Phase("adapter", 2, student=False)
    backbone = Phase("backbone", 1, method=False)

    class Looking(Spy):
        def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
            seen.append((batch.phase, same(state(self.student[0]), begun), float(self.own.detach())))
            return super().losses(student, teacher, batch)

    spy = Looking(student, student, recipe.facts(4, dataset.train.labels), weight=1.0)
    spy.phases = (adapter, backbone)
    history = train(student, None, spy, dataset, recipe, seed=0)

    assert [(epoch.phase, epoch.epoch) for epoch in history] == [
        *(("adapter", 1), ("adapter", 2), ("backbone", 1), ("main", 1), ("main", 2))
    ]
    assert [epoch.score is None for epoch in history] == [True, True, True, False, False]
    assert [sorted(epoch.terms) for epoch in history] == [["spy"]] * 3 + [["spy", "task"]] * 2
    at_rest = [untouched for phase, untouched, _ in seen if phase == "adapter"]
    assert all(at_rest)  # its running statistics too
    owns = {phase: [own for p, _, own in seen if p == phase] for phase in ("adapter", "backbone", "main")}
    assert len(set(owns["adapter"])) == 8
    assert len(set(owns["backbone"])) == 1
    assert len(set(owns["main"])) > 1
    modes = {phase: (trains, method) for phase, _, trains, method in spy.modes}
    assert modes == {"adapter": (False, True), "backbone": (True, False), "main": (True, True)}


def test_nothing_of_the_teacher_changes(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    for wants in (Needs(), Needs(teacher_train=True), Needs(input_grad=True)):
        teacher = make_student(1)
        before = state(teacher)
        spy, _ = spied(make_student(), dataset, recipe, teacher=teacher, weight=1.0, wants=wants)
        assert same(state(teacher), before)
        assert all(parameter.grad is None for parameter in teacher.parameters())
        with torch.no_grad():
            eval_logits = teacher.eval()(spy.batches[0].images)
        assert torch.equal(spy.traces[0][1].logits, eval_logits) is not wants.teacher_train


def test_a_method_gets_the_taps_the_views_and_the_gradients_it_asks_for(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    wants = Needs(student=frozenset({3, 5}), teacher=frozenset({7}), cut=5, input_grad=True, views=("recipe", "strong"))
    spy, _ = spied(make_student(), dataset, recipe, teacher=make_student(1), wants=wants, weight=1.0)
    batch, (student, teacher) = spy.batches[0], spy.traces[0]
    assert (set(student.features), set(teacher.features)) == ({3, 5}, {7})
    assert len(student.views) == len(teacher.views) == len(batch.views) == 2
    assert torch.equal(student.views[0].logits, student.logits)
    assert not torch.equal(batch.views[0], batch.views[1])
    with torch.no_grad():
        chain = spy.teacher.eval()
        assert all(torch.equal(chain(x), view.logits) for x, view in zip(batch.views, teacher.views, strict=True))
    for trace in (student.views[1], teacher.views[1]):
        assert trace.logits.requires_grad
    assert batch.images.requires_grad


def test_behind_the_cut_cross_entropy_trains_nothing(make_student: Make, dataset: Dataset, recipe: Recipe) -> None:
    student, cut = make_student(), 5
    begun = [parameter.detach().clone() for parameter in student.parameters()]
    spied(student, dataset, recipe, wants=Needs(cut=cut))
    behind = {id(parameter) for link in student.links[:cut] for parameter in link.parameters()}
    for parameter, before in zip(student.parameters(), begun, strict=True):
        assert torch.equal(parameter, before) is (id(parameter) in behind)


# -- what is left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_precisions_run_with_weights_and_terms_in_fp32(
    make_student: Make, dataset: Dataset, recipe: Recipe, precision: str
) -> None:
    student = make_student()
    begun = state(student)
    spy, history = spied(student, dataset, msgspec.structs.replace(recipe, precision=precision), weight=0.1)
    assert all(math.isfinite(value) for epoch in history for value in epoch.terms.values())
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert spy.traces[0][0].logits.dtype == torch.float32
    with torch.no_grad():
        exact = student.eval().requires_grad_(False)
        exact.precision = None
        exact.load_state_dict(begun)
        difference = (exact.train()(spy.batches[0].images) - spy.traces[0][0].logits).abs().max()
    assert (float(difference) > 1e-5) is (precision == "bf16")  # computed in the precision that was asked for


def test_an_epochs_terms_are_means_over_its_steps_the_partial_one_too(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    spy, history = spied(make_student(), dataset, recipe)
    steps = zip(spy.batches, spy.traces, strict=True)
    tasks = [float(batch.task(student.logits.detach())) for batch, (student, _) in steps]
    for epoch, start in zip(history, (0, 4), strict=True):
        assert epoch.terms["task"] == pytest.approx(sum(tasks[start : start + 4]) / 4)
        assert epoch.terms["spy"] == 0


def test_a_loss_that_is_no_number_ends_the_run_with_the_epochs_name(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    class Bursting(Spy):
        def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(student, teacher, batch)
            return {"spy": terms["spy"] * (math.nan if batch.epoch == 2 else 1.0)}

    student = make_student()
    with pytest.raises(Diverged, match=r"no longer a number in epoch 2 of phase main: .*'spy': nan"):
        train(student, None, Bursting(student, student, recipe.facts(4, dataset.train.labels)), dataset, recipe, 0)


def test_weights_that_burst_in_the_last_step_end_the_run_too(
    make_student: Make, dataset: Dataset, recipe: Recipe
) -> None:
    class LastStraw(Spy):
        def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(student, teacher, batch)
            if len(self.batches) == 8:
                student.logits.register_hook(lambda gradient: gradient * math.inf)
            return terms

    student = make_student()
    with pytest.raises(Diverged, match="epoch 2 of phase main"):
        train(student, None, LastStraw(student, student, recipe.facts(4, dataset.train.labels)), dataset, recipe, 0)
