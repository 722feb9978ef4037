"""What every method keeps, whatever it carries. A method that registers itself is tested here without another line."""

import copy
import inspect
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create, resolve
from kdbench.methods.chain import UNASKED, Chain
from kdbench.methods.method import METHODS, Batch, Facts, Method, Source, hyper_parameters
from kdbench.refusal import Refusal
from tests.conftest import Learn, MakeBatch, seeded

NAMES = [*METHODS, "ce+kd"]


def made(name: str, student: Chain, teacher: Chain, facts: Facts, seed: int = 3) -> Method:
    brief = {"initial_epochs": 2} if name in METHODS and "initial_epochs" in hyper_parameters(METHODS[name]) else {}
    params = resolve(name, student, teacher, facts, **brief)
    torch.manual_seed(seed)
    return create(name, student, teacher, facts, **params)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str, student: Chain, teacher: Chain, facts: Facts) -> Method:
    return made(name, student, teacher, facts)


def losses(student: Chain, method: Method, batch: Batch, *, task: bool = False) -> dict[str, Tensor]:
    """One step's terms, as the loop comes by them."""
    return Step(student, method)(batch, LiveTeacher(method.teacher, method.needs())(batch), task)


def phases(method: Method) -> list[str]:
    return [*(phase.name for phase in method.phases), "main"]


def trained(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


# -- the losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("larger", ["resnet14x0.5", "vgg8"])
def test_a_last_batch_of_one_image_breaks_nothing(
    name: str, larger: str, student: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    """Whether the teacher's last map has several positions or, as vgg8's here, one."""
    method = made(name, student, seeded(larger, 2), facts)
    for phase in phases(method):
        batch = make_batch(method.needs(), phase)
        views = tuple(view[:1].detach().requires_grad_(view.requires_grad) for view in batch.views)
        one = replace(batch, views=views, labels=batch.labels[:1], index=batch.index[:1])
        sum(losses(student, method, one, task=True).values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained(student).values())


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_terms_are_finite_scalars_in_fp32(
    student: Chain, method: Method, make_batch: MakeBatch, precision: torch.dtype | None
) -> None:
    student.precision = method.teacher.precision = precision
    for phase in phases(method):
        for term, value in losses(student, method, make_batch(method.needs(), phase), task=True).items():
            assert value.shape == () and value.dtype == torch.float32 and value.isfinite(), term


def test_in_double_precision_terms_are_double(student: Chain, method: Method, make_batch: MakeBatch) -> None:
    student.double(), method.teacher.double(), method.double()
    for phase in phases(method):
        batch = make_batch(method.needs(), phase, torch.float64)
        for term, value in losses(student, method, batch, task=True).items():
            assert value.dtype == torch.float64 and value.isfinite(), term


@pytest.mark.parametrize("pair", [("resnet8x0.5", "resnet8x0.25"), ("resnet8x0.25", "wrn_10_1"), ("wrn_10_1",) * 2])
def test_runs_on_every_pair(name: str, pair: tuple[str, str], facts: Facts, make_batch: MakeBatch) -> None:
    """A teacher that is narrower, one of another family, one of the student's own kind."""
    student, teacher = seeded(pair[0], 1), seeded(pair[1], 2)
    method = made(name, student, teacher, facts)
    terms = losses(student, method, make_batch(method.needs()), task=True)
    assert all(value.isfinite() for value in terms.values())


# -- the gradients ----------------------------------------------------------------------------------------------------


def test_gradient_reaches_student_and_method_but_never_the_teacher(
    student: Chain, method: Method, make_batch: MakeBatch
) -> None:
    reached: set[str] = set()
    for phase in phases(method):
        sum(losses(student, method, make_batch(method.needs(), phase), task=True).values()).backward()
        reached |= {name for name, p in trained(method).items() if p.grad is not None and p.grad.isfinite().all()}
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert reached == set(trained(method))
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_knowledge_reaches_the_student_without_cross_entropy(
    student: Chain, method: Method, make_batch: MakeBatch
) -> None:
    if not method.taught:
        pytest.skip("it has no teacher")
    for phase in phases(method):
        terms = losses(student, method, make_batch(method.needs(), phase))
        if any(value.requires_grad for value in terms.values()):
            sum(terms.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())


def test_training_changes_the_student_and_nothing_of_the_teacher(student: Chain, method: Method, learn: Learn) -> None:
    before, teacher = copy.deepcopy(student.state_dict()), copy.deepcopy(method.teacher.state_dict())
    learn(student, method.teacher if method.taught else None, method)
    assert not torch.equal(student.state_dict()["conv1.weight"], before["conv1.weight"])
    for key, value in method.teacher.state_dict().items():
        assert torch.equal(value, teacher[key]), key


def test_the_teacher_is_no_part_of_the_method(method: Method) -> None:
    theirs = {id(tensor) for tensor in (*method.teacher.parameters(), *method.teacher.buffers())}
    assert not theirs & {id(tensor) for tensor in (*method.parameters(), *method.buffers())}
    assert method.teacher not in list(method.modules())


# -- what it says of itself -------------------------------------------------------------------------------------------


def test_needs_are_always_the_same_and_can_be_met(
    name: str, student: Chain, teacher: Chain, facts: Facts, method: Method
) -> None:
    needs = method.needs()
    assert needs == method.needs() == made(name, student, teacher, facts, seed=4).needs()
    assert needs.student <= set(range(len(student) + 1))
    assert needs.teacher <= set(range(len(teacher) + 1))
    assert needs.cut is None or 0 < needs.cut < len(student)
    assert needs.views[0] == "recipe" and set(needs.views) <= {"recipe", "strong"}


def test_losses_see_the_labels_only_if_they_are_asked_for(
    student: Chain, method: Method, make_batch: MakeBatch
) -> None:
    if method.needs().labels:
        pytest.skip("it asks for labels")
    batch = make_batch(method.needs())
    other = replace(make_batch(method.needs()), labels=(batch.labels + 1) % 10)
    saved = copy.deepcopy(method.state_dict())
    mine = losses(student, method, batch)
    method.load_state_dict(saved)
    assert mine == losses(student, method, other)


def test_losses_run_the_teacher_only_if_they_say_so(student: Chain, method: Method, make_batch: MakeBatch) -> None:
    """Answers of a teacher that is only listened to can be remembered."""
    if method.needs().live_teacher:
        pytest.skip("it says so")
    for phase in phases(method):
        batch = make_batch(method.needs(), phase)
        heard = LiveTeacher(method.teacher, method.needs())(batch)
        hooks = [module.register_forward_pre_hook(refuse) for module in method.teacher.modules()]
        Step(student, method)(batch, heard)
        for hook in hooks:
            hook.remove()


def refuse(*_: Any) -> None:
    raise AssertionError("losses() ran the teacher, but needs() does not say live_teacher")


def test_the_teachers_embedding_is_asked_for_by_those_who_read_it_and_by_no_others(
    student: Chain, method: Method, make_batch: MakeBatch
) -> None:
    """Who does not ask is answered without one, here as from memory, and told so when it reads it."""
    needs = method.needs()
    batch = make_batch(needs)
    heard = LiveTeacher(method.teacher, needs)(batch)
    assert (heard.embedding is UNASKED) != needs.teacher_embedding
    if needs.teacher_embedding:
        heard = replace(heard, embedding=torch.full_like(heard.embedding, torch.nan))
    terms = Step(student, method)(batch, heard)
    assert any(value.isnan() for value in terms.values()) == needs.teacher_embedding


def test_losses_relate_images_only_if_the_whole_batch_is_asked_for(
    student: Chain, method: Method, make_batch: MakeBatch
) -> None:
    """Otherwise the mean over two ranks' halves must be the loss of the whole."""
    needs = method.needs()
    if needs.whole_batch:
        pytest.skip("it asks for the whole batch")
    for module in (student, method):
        module.double().eval()  # batch norm relates images too, but that is the networks' affair
    method.teacher.double()
    listen = LiveTeacher(method.teacher, replace(needs, teacher_train=False))
    saved = copy.deepcopy(method.state_dict())

    def heard(rows: slice) -> tuple[dict[str, Tensor], bool]:
        method.load_state_dict(saved)
        batch = make_batch(needs, dtype=torch.float64)
        views = tuple(view.detach()[rows].requires_grad_(needs.input_grad) for view in batch.views)
        batch = replace(batch, views=views, labels=batch.labels[rows], index=batch.index[rows])
        fresh = batch.generator.get_state()
        terms = Step(student, method)(batch, listen(batch))
        return terms, torch.equal(fresh, batch.generator.get_state())

    (whole, certain), (first, _), (second, _) = heard(slice(0, 8)), heard(slice(0, 4)), heard(slice(4, 8))
    if not certain:
        pytest.skip("it draws at random, differently for each half")
    for term, value in whole.items():
        torch.testing.assert_close((first[term] + second[term]) / 2, value, rtol=1e-9, atol=0)


# -- how it is made and kept ------------------------------------------------------------------------------------------


def test_a_fresh_one_goes_on_from_a_saved_state_with_the_same_bits(
    name: str, student: Chain, teacher: Chain, facts: Facts, method: Method, make_batch: MakeBatch, learn: Learn
) -> None:
    learn(student, teacher if method.taught else None, method)
    saved = copy.deepcopy(method.state_dict())
    fresh = made(name, student, teacher, facts, seed=4)
    fresh.load_state_dict(saved)
    batch, again = make_batch(method.needs()), make_batch(method.needs())
    student.eval(), method.train(), fresh.train()
    assert losses(student, method, batch, task=True) == losses(student, fresh, again, task=True)


def test_can_be_made_on_the_meta_device(
    name: str, student: Chain, teacher: Chain, facts: Facts, method: Method
) -> None:
    """A plan asks every cell whether it can work, and must not pay for weights."""
    params = resolve(name, student, teacher, facts)
    shadows = [seeded(chain, 0, device="meta") for chain in ("resnet8x0.25", "resnet14x0.5")]
    with torch.device("meta"):
        shadow = create(name, *shadows, facts, **params)
    assert shadow.needs() == method.needs()
    assert {key: value.shape for key, value in shadow.state_dict().items()} == {
        key: value.shape for key, value in method.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in shadow.parameters())


@pytest.mark.parametrize("registered", METHODS)
def test_declares_source_doc_and_hyper_parameters(registered: str) -> None:
    kind = METHODS[registered]
    assert kind.source in get_args(Source)
    assert kind.__doc__ and kind.__doc__ != Method.__doc__
    parameters = hyper_parameters(kind)
    assert "ce_weight" in parameters
    for parameter in parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.default is not inspect.Parameter.empty, parameter
    others = inspect.signature(kind).parameters.keys() - parameters.keys()
    assert others == {"student", "teacher", "facts"}


def test_an_unknown_name_is_refused_with_the_nearest_one(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="unknown method 'kdd'; did you mean 'kd'"):
        create("kdd", student, teacher, facts)
    with pytest.raises(Refusal, match="unknown method 'kdd'; did you mean 'kd'"):
        create("ce+kdd", student, teacher, facts)
