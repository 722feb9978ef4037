"""Features weighted by gradients, and the neighbours of the same formula."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.networks import build
from kdbench.benchmark.networks.from_timm import chained
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.gradients.fisher import classifier_diagonal, diagonal_form, mean_trace
from kdbench.methods.gradients.weighted_features import WeightedFeatures
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn, MakeBatch, seeded
from tests.methods.golden_methods import FACTS


def loss(student: Chain, teacher: Chain, method: WeightedFeatures, make_batch: MakeBatch, **batch: Any) -> Tensor:
    made = replace(make_batch(dtype=next(teacher.parameters()).dtype), **batch)
    return Step(student, method)(made, LiveTeacher(teacher, method.needs())(made), task=False)["features"]


def vit(width: int) -> Chain:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=width, depth=4,
        num_heads=2,
    )  # fmt: skip
    return chained(model, (1, 8, 8))


# -- golden numbers ---------------------------------------------------------------------------------------------------


def projected(golden: Golden) -> Tensor:
    maps = [name for name in golden.inputs if name.endswith("hsu_map")]
    return F.linear(golden["fs"], golden["hsu_map"]) if maps else golden["fs"]


def weights(golden: Golden) -> Tensor:
    p = F.linear(golden["ft"], golden["hsu_A"], golden["hsu_b"]).softmax(1)
    return classifier_diagonal(p, golden["hsu_A"])


@pytest.mark.golden("GradKD_features_diagF")
def test_fisher_weighs_by_the_closed_form(golden: Golden) -> None:
    golden.check(diagonal_form(projected(golden), golden["ft"], weights(golden)))


@pytest.mark.golden("GradKD_features_diagF_batchnormalised")
def test_the_mean_trace_is_the_mean_weight_times_the_width(golden: Golden) -> None:
    """The entry sums over coordinates what we average."""
    value = diagonal_form(projected(golden), golden["ft"], weights(golden)) / mean_trace(weights(golden))
    golden.check(golden["ft"].shape[1] * value)


def classifying(golden: Golden) -> Chain:
    """A network whose images are embeddings already: the entry's classifier, and nothing before it."""
    classes, width = golden["A"].shape
    linear = nn.Linear(width, classes)
    linear.load_state_dict({"weight": golden["A"], "bias": golden["b"]})
    network = nn.Sequential(nn.Flatten(), linear).to(golden.dtype)
    return Chain(network, network, stages=(), image=(1, 1, width))


def traced(golden: Golden, network: Chain) -> tuple[Trace, Trace]:
    return network.trace(golden["fs"]), network.trace(golden["ft"])


@pytest.mark.golden("EFC")
def test_full_is_elastic_feature_consolidation_which_does_not_halve(golden: Golden, make_batch: MakeBatch) -> None:
    network = classifying(golden)
    seen = replace(FACTS, labels=torch.zeros(6), images=lambda rows: iter(golden["seen"][rows].split(4)))
    method = WeightedFeatures(network, network, seen, weighting="full", normalise=False, weight=2.0).to(golden.dtype)
    method.prepare()
    golden.check(method.losses(*traced(golden, network), make_batch())["features"])


@pytest.mark.golden("ABD")
def test_classifier_by_classes_is_always_be_dreamings_mean_squared_error(golden: Golden, make_batch: MakeBatch) -> None:
    network = classifying(golden)
    method = WeightedFeatures(network, network, FACTS, weighting="classifier", normalise="classes", weight=2.0)
    golden.check(method.losses(*traced(golden, network), make_batch())["features"])


# -- the method against NumPy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("weighting", ["plain", "fisher", "classifier", "full"])
def test_losses_are_the_formula(
    weighting: str, normalise: bool, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student.double().eval(), teacher.double().eval()
    doubled = replace(facts, images=lambda rows: (images.double() for images in facts.images(rows)))
    method = WeightedFeatures(
        student, teacher, doubled, weighting=weighting, normalise=normalise, scale=4.0, damping=0.3, weight=2.0,
    ).double()  # fmt: skip
    method.prepare()
    value = loss(student, teacher, method, make_batch)

    with torch.no_grad():
        images = make_batch(dtype=torch.float64).images
        mine, theirs = method.project(student.trace(images).embedding).numpy(), teacher.trace(images)
        everything = torch.cat([teacher(seen) for seen in doubled.images(torch.arange(facts.size))]).softmax(1)
    classifier = teacher.classifier.weight
    assert isinstance(classifier, Tensor)
    a = classifier.detach().numpy()

    def fisher(p: Tensor) -> Any:
        """From gradients, one class after the other: ∂log p(y)/∂h = A_y − Σ_c p_c A_c."""
        return sum(share * np.outer(row, row) for share, row in zip(p.numpy(), a - p.numpy() @ a, strict=True))

    width = a.shape[1]
    match weighting:
        case "plain":
            matrices = [np.eye(width)] * 8
        case "fisher":
            matrices = [np.diag(np.diag(fisher(p))) for p in theirs.logits.softmax(1)]
        case "classifier":
            matrices = [a.T @ a] * 8
        case _:
            matrices = [4 * np.mean([fisher(p) for p in everything], axis=0) + 0.3 * np.eye(width)] * 8
    rows = zip(mine - theirs.embedding.numpy(), matrices, strict=True)
    expected = 2 * np.mean([0.5 * d @ matrix @ d for d, matrix in rows])
    if normalise:
        expected /= np.mean([np.trace(matrix) for matrix in matrices])
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_information_is_gathered_when_training_begins_and_kept(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn
) -> None:
    method = WeightedFeatures(student, teacher, facts, weighting="full")
    assert torch.equal(method.matrix, 0.1 * torch.eye(teacher.embedding_width))
    history = learn(student, teacher, method)
    gathered = method.matrix.clone()
    assert torch.linalg.eigvalsh(gathered)[-1] > 0.11
    assert history[-1].terms["features"] < history[0].terms["features"]
    method.prepare()
    assert torch.equal(method.matrix, gathered)


# -- inner depths -----------------------------------------------------------------------------------------------------


def test_all_classes_at_the_embeddings_depth_are_the_closed_form(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student.double().eval(), teacher.double()
    torch.manual_seed(0)
    closed = WeightedFeatures(student, teacher, facts).double()
    exact = WeightedFeatures(student, teacher, facts, depth=len(teacher) - 1, samples=0).double()
    exact.load_state_dict(closed.state_dict())
    torch.testing.assert_close(
        loss(student, teacher, exact, make_batch), loss(student, teacher, closed, make_batch), rtol=1e-10, atol=0
    )


def test_inside_weights_are_each_samples_own_squared_gradients(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    student.double().eval(), teacher.double().eval()
    depth = teacher.stages[2]
    method = WeightedFeatures(student, teacher, facts, depth=depth, samples=0, normalise=False, weight=1.0).double()
    value = loss(student, teacher, method, make_batch)

    images = make_batch(dtype=torch.float64).images
    total = 0.0
    for image in images.split(1):
        feature = teacher.trace(image, {depth})[depth].detach().requires_grad_()
        log_p = teacher.resume(feature, after=depth).log_softmax(1)[0]
        jacobian = torch.stack([torch.autograd.grad(v, feature, retain_graph=True)[0] for v in log_p])
        fisher = (log_p.exp().view(-1, 1, 1, 1, 1) * jacobian.square()).sum(0)
        mine = method.project(student.trace(image, {method.mine})[method.mine])
        total += (fisher * (mine - feature).square()).sum().item() / 2 / len(images)
    assert value.item() == pytest.approx(total, rel=1e-10)


def test_draws_come_from_the_batchs_generator_alone(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = WeightedFeatures(student, teacher, facts, depth=teacher.stages[2])
    student.eval()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(torch.seed())
        return loss(student, teacher, method, make_batch, generator=torch.Generator().manual_seed(seed))

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("teachers", ["cnn", "vit"])
@pytest.mark.parametrize("students", ["cnn", "vit"])
def test_every_stage_with_a_partner_can_be_matched(
    students: str, teachers: str, facts: Facts, make_batch: MakeBatch
) -> None:
    student = vit(12) if students == "vit" else seeded("resnet8x0.25", 1)
    teacher = vit(24) if teachers == "vit" else seeded("resnet14x0.5", 2)
    for depth in (None, teacher.stages[-1], teacher.stages[-2], len(teacher) - 1):
        for weighting in ("plain", "fisher"):
            method = WeightedFeatures(student, teacher, facts, weighting=weighting, depth=depth)
            value = loss(student, teacher, method, make_batch)
            value.backward()
            assert value.isfinite()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


# -- the projector, and what cannot work ------------------------------------------------------------------------------


def test_a_projector_stands_only_where_forms_differ_unless_always(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    twin = seeded("resnet8x0.25", 1).eval()
    alike = WeightedFeatures(student.eval(), twin, facts)
    assert isinstance(alike.project, nn.Identity)
    assert loss(student, twin, alike, make_batch) == 0
    assert list(WeightedFeatures(student, twin, facts, projector="always").parameters())
    (weight,) = WeightedFeatures(student, teacher, facts).parameters()
    assert weight.shape[:2] == (teacher.embedding_width, student.embedding_width)


def test_what_cannot_work_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    pair = build("timm:deit_tiny_distilled_patch16_224", 10, (3, 32, 32), device="meta")
    with pytest.raises(Refusal, match="the teacher's last link linear, got 'fisher' and TwoHeads; at depth 15"):
        WeightedFeatures(student, pair, facts)
    WeightedFeatures(student, pair, facts, weighting="plain")
    with pytest.raises(Refusal, match=r"depth must be one of the teacher's with a partner \(.*\), got 1"):
        WeightedFeatures(student, teacher, facts, depth=1)
    with pytest.raises(Refusal, match="weighting must be 'plain' or 'fisher' at an inner depth, got 'full'"):
        WeightedFeatures(student, teacher, facts, weighting="full", depth=teacher.stages[2])
    with pytest.raises(Refusal, match="samples must be 0"):
        WeightedFeatures(student, teacher, facts, samples=-1)
    with pytest.raises(Refusal, match="scale and damping must not be negative"):
        WeightedFeatures(student, teacher, facts, scale=0.0, damping=0.0)
