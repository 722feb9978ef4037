"""Input gradients, matched."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kdbench.benchmark.networks import form
from kdbench.benchmark.networks.from_timm import chained
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.gradients.jacobian import Jacobian, drawn, input_gradient
from kdbench.methods.method import Batch, Facts, Method
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn, MakeBatch, seeded
from tests.methods.logits.traces import trace


def terms(student: Chain, teacher: Chain, method: Method, batch: Batch) -> dict[str, Tensor]:
    return Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch), task=False)


def linear(seed: int) -> Chain:
    """Its input gradients are known: ∂z_y/∂x = A_y and ∂log p(y)/∂x = A_y − Σ_c p_c A_c."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    return Chain(network, network, stages=(), image=(1, 8, 8))


def gradients(chain: Chain, classes: Any, output: str, images: Tensor) -> Any:
    weight = chain.classifier.weight
    assert isinstance(weight, Tensor)
    a, p = weight.detach().numpy(), chain(images).softmax(1).detach().numpy()
    return a[classes] - p @ a if output == "log_probability" else a[classes]


@pytest.mark.golden("Sobolev")
def test_gradients_of_logits_are_a_published_codes(golden: Golden, facts: Facts, make_batch: MakeBatch) -> None:
    """It averages over pixels what we sum; the student's batch norm relates the images."""
    images = golden["x"]
    mine = F.batch_norm(F.linear(images.flatten(1), golden["s_first"]), None, None, training=True)
    theirs = F.linear(images.flatten(1), golden["t_first"])
    traces = trace(mine.tanh() @ golden["s_last"].T), trace(theirs.tanh() @ golden["t_last"].T)
    method = Jacobian(linear(1), linear(2), facts, output="logit")
    value = method.losses(*traces, replace(make_batch(), views=(images,), labels=golden["y"]))["jacobian"]
    golden.check(value / images[0].numel())


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("output", ["log_probability", "logit"])
@pytest.mark.parametrize("of", ["label", "teacher"])
def test_losses_are_the_formula_of_linear_networks(
    of: str, output: str, normalise: bool, facts: Facts, make_batch: MakeBatch
) -> None:
    student, teacher = linear(1), linear(2)
    method = Jacobian(student, teacher, facts, of=of, output=output, normalise=normalise, weight=3.0)
    batch = make_batch(method.needs(), dtype=torch.float64)
    value = terms(student, teacher, method, batch)["jacobian"]

    images = batch.images.detach()
    classes = batch.labels.numpy() if of == "label" else teacher(images).detach().numpy().argmax(1)
    mine, theirs = (gradients(chain, classes, output, images) for chain in (student, teacher))
    if normalise:
        mine, theirs = (j / np.linalg.norm(j, axis=1, keepdims=True) for j in (mine, theirs))
    assert value.item() == pytest.approx(3 * ((mine - theirs) ** 2).sum(1).mean(), rel=1e-12)
    value.backward()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("margin", [2.0, 18.0, 40.0])
def test_a_network_that_is_sure_has_a_direction_in_single_precision_too(margin: float, normalise: bool) -> None:
    """log p(y) is nearly 0 there, and what rounds away in it is all that its gradient is made of."""

    def gradient(dtype: torch.dtype) -> Tensor:
        torch.manual_seed(0)
        images = torch.randn(8, 6, dtype=torch.float64).to(dtype).requires_grad_()
        weight, classes = torch.randn(6, 4, dtype=torch.float64).to(dtype), torch.zeros(8, dtype=torch.long)
        sure = torch.tensor([margin, 0, 0, 0], dtype=dtype)
        return input_gradient("log_probability", images.tanh() @ weight / 4 + sure, classes, images, normalise).double()

    single, double = gradient(torch.float32), gradient(torch.float64)
    assert (single - double).norm() < 1e-5 * double.norm()


def test_classes_are_drawn_by_their_probabilities() -> None:
    p = torch.tensor([0.7, 0.2, 0.1, 0.0], dtype=torch.float64)
    counts = drawn(p.expand(10_000, -1), Generator().manual_seed(0)).bincount(minlength=4) / 10_000
    assert counts[3] == 0
    assert ((counts - p).abs() <= 4 * (p * (1 - p) / 10_000).sqrt()).all()


def test_sampled_answers_are_the_batchs_generators(facts: Facts, make_batch: MakeBatch) -> None:
    student, teacher = linear(1), linear(2)
    method = Jacobian(student, teacher, facts, of="sampled")

    def value() -> Tensor:
        torch.manual_seed(torch.seed())
        return terms(student, teacher, method, make_batch(method.needs(), dtype=torch.float64))["jacobian"]

    assert value() == value()


def test_two_networks_that_are_one_have_nothing_to_match(facts: Facts, make_batch: MakeBatch) -> None:
    student, teacher = (seeded("resnet8x0.25", 1).double().eval() for _ in range(2))
    method = Jacobian(student, teacher, facts)
    batch = make_batch(method.needs(), dtype=torch.float64)
    assert terms(student, teacher, method, batch)["jacobian"] < 1e-20
    assert terms(student, seeded("resnet8x0.25", 2).double(), method, batch)["jacobian"] > 0.1


def test_matching_brings_the_gradients_together(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    history = learn(student, teacher, Jacobian(student, teacher, facts, ce_weight=0.0))
    assert history[-1].terms["jacobian"] < history[0].terms["jacobian"]


def test_beside_it_other_methods_hear_a_teacher_that_is_frozen(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student.double().eval(), teacher.double()
    both = create("jacobian+kd", student, teacher, facts)
    batch = make_batch(both.needs(), dtype=torch.float64)
    together = terms(student, teacher, both, batch)
    torch.stack(list(together.values())).sum().backward()
    for name in ("jacobian", "kd"):
        alone = terms(student, teacher, create(name, student, teacher, facts), batch)
        torch.testing.assert_close(together[f"{name}.{name}"], alone[name])


def test_a_vision_transformers_attention_is_differentiated_twice(facts: Facts, make_batch: MakeBatch) -> None:
    def vit(width: int) -> Chain:
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=width, depth=4,
            num_heads=2,
        )  # fmt: skip
        return chained(model, (1, 8, 8))

    student, teacher = vit(12), vit(24)
    method = Jacobian(student, teacher, facts)
    terms(student, teacher, method, make_batch(method.needs()))["jacobian"].backward()
    reached = [p.grad for name, p in student.network.named_parameters() if "qkv.weight" in name]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in reached)


def test_a_student_that_torch_cannot_differentiate_twice_is_refused(facts: Facts) -> None:
    mobile, other = (form(name, 10, (3, 32, 32)) for name in ("timm:mobilenetv3_small_050", "resnet8"))
    create("jacobian", other, mobile, facts)
    with pytest.raises(Refusal, match="got a student with Hardsigmoid"):
        create("jacobian", mobile, other, facts)
