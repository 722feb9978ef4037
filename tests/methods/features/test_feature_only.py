"""Feature-only distillation: its loss, where gradients go, and which layers it stands on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark import networks
from kdbench.benchmark.plans.parameters import complete
from kdbench.methods import create, resolve
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.feature_only import FeatureOnly, distance
from kdbench.methods.features.layers import layers
from kdbench.methods.features.quality import best, qualities
from kdbench.methods.forms import Form
from kdbench.methods.method import Facts, Needs
from kdbench.refusal import Refusal
from tests.conftest import Golden, MakeBatch
from tests.pairs import FEATURE_ONLY

# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.golden("KDwoCE_feature_mse")
def test_the_loss_is_the_papers(golden: Golden) -> None:
    distances = []
    for number in range(sum("proj" in key for key in golden.inputs)):
        mine, theirs, weight = golden[f"s{number}"], golden[f"t{number}"], golden[f"proj{number}"]
        forms = [Form("map", value.shape[1], (value.shape[2], value.shape[3])) for value in (mine, theirs)]
        distances.append(distance(mine, theirs, *forms, convolution(weight)))
    golden.check(torch.stack(distances).mean())


def convolution(weight: Tensor) -> Any:
    return lambda line: F.conv1d(line, weight.flatten(1)[..., None])


def test_a_class_token_is_compared_with_a_class_token_and_with_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    grid, more = torch.randn(2, 4, 3, generator=draw), torch.randn(2, 4, 3, generator=draw)
    token, other = torch.randn(2, 1, 3, generator=draw), torch.randn(2, 1, 3, generator=draw)
    bare, headed = Form("tokens", 3, (2, 2)), Form("tokens", 3, (2, 2), prefix=1)
    one, two = torch.cat([token, grid], 1), torch.cat([other, more], 1)
    same = nn.Identity()
    assert distance(one, two, headed, headed, same) == pytest.approx(F.mse_loss(one, two).item())
    assert distance(grid, two, bare, headed, same) == pytest.approx(F.mse_loss(grid, more).item())
    assert distance(one, more, headed, bare, same) == pytest.approx(F.mse_loss(grid, more).item())


@pytest.mark.parametrize("student", ["resnet8x0.25", "timm:vit_tiny_patch16_224", "timm:mixer_s16_224", "vgg8"])
@pytest.mark.parametrize("teacher", ["wrn_16_2", "timm:deit_tiny_distilled_patch16_224", "timm:ghostnet_100"])
def test_maps_tokens_and_vectors_of_all_sizes_meet(
    student: str, teacher: str, facts: Facts, make_batch: MakeBatch
) -> None:
    chains = [networks.form(name, 10, (3, 32, 32)) for name in (student, teacher)]
    with torch.device("meta"):
        method = create("feature_only", *chains, facts)
    needs = method.needs()
    assert len(needs.student) == min(4, len(layers(chains[1]))) == len(needs.teacher)
    mine, theirs = (shapes(*asked) for asked in zip(chains, (needs.student, needs.teacher), strict=True))
    assert method.losses(mine, theirs, make_batch())["feature"].shape == ()


def shapes(chain: Chain, depths: frozenset[int]) -> Trace:
    """What a pass would leave behind, without numbers."""
    value = torch.empty(2, *chain.image, device="meta")
    features = {}
    for depth, link in enumerate(chain.links, start=1):
        value = link(value)
        features[depth] = value
    return Trace(value, features[len(chain) - 1], {depth: features[depth] for depth in depths})


# -- the gradients ----------------------------------------------------------------------------------------------------


def reached(student: Chain, needs: Needs, loss: Callable[[Trace], Tensor], images: Tensor) -> dict[int, bool]:
    """Each parameter of the student, by its identity, and whether a gradient has come to it."""
    student.zero_grad(set_to_none=True)
    loss(student.train().trace(images, needs.student, needs.cut)).backward()
    return {id(p): p.grad is not None and bool(p.grad.any()) for p in student.parameters()}


@pytest.mark.parametrize("student_depths", ["standard", (0, 2)])
def test_labels_teach_only_what_lies_behind_the_last_distilled_layer(
    student_depths: Any, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = create("feature_only", student, teacher, facts, student_depths=student_depths)
    needs, batch = method.needs(), make_batch()
    assert needs.cut == max(needs.student)
    backbone = {id(p) for p in student.links[: needs.cut].parameters()}
    head = {id(p) for p in student.parameters()} - backbone
    norms = {
        id(p) for m in student.links[: needs.cut].modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }

    task = reached(student, needs, lambda trace: batch.task(trace.logits), batch.images)
    assert not any(task[p] for p in backbone) and all(task[p] for p in head) and norms < backbone

    uncut = reached(student, replace(needs, cut=None), lambda trace: batch.task(trace.logits), batch.images)
    assert all(uncut.values())  # so the cut it was

    with torch.no_grad():
        answer = teacher.eval().trace(batch.images, needs.teacher)
    knowledge = reached(student, needs, lambda trace: method.losses(trace, answer, batch)["feature"], batch.images)
    assert all(knowledge[p] for p in backbone) and not any(knowledge[p] for p in head)


def test_with_cross_entropy_labels_teach_the_backbone_too_and_the_features_say_the_same(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    torch.manual_seed(0)
    alone = create("feature_only", student, teacher, facts)
    torch.manual_seed(0)
    beside = create("feature_with_ce", student, teacher, facts)
    needs, batch = beside.needs(), make_batch()
    assert all(reached(student, needs, lambda trace: batch.task(trace.logits), batch.images).values())
    with torch.no_grad():
        traces = student.trace(batch.images, needs.student), teacher.eval().trace(batch.images, needs.teacher)
        assert beside.losses(*traces, batch) == alone.losses(*traces, batch)


# -- the layers -------------------------------------------------------------------------------------------------------


def test_by_quality_are_the_teachers_best_layers_in_order(student: Chain, teacher: Chain, facts: Facts) -> None:
    found = resolve("feature_only", student, teacher, facts, samples=40, class_samples=4, k0=20.0)
    assert found["teacher_depths"] == best(qualities(teacher, facts, samples=40, class_samples=4, k0=20.0), 4)
    assert found["student_depths"] == (0, 1, 2, 3)
    method = create("feature_only", student, teacher, facts, **found)
    assert sorted(method.needs().teacher) == [layers(teacher)[number] for number in found["teacher_depths"]]


@pytest.mark.parametrize("depths", [(2, 5), "standard"])
def test_named_layers_are_not_measured(depths: Any, student: Chain, teacher: Chain, facts: Facts) -> None:
    blind = replace(facts, images=None)
    found = resolve("feature_only", student, teacher, blind, teacher_depths=depths)
    assert found["teacher_depths"] == ((2, 5) if depths == (2, 5) else (0, 2, 4, 6))
    assert len(found["student_depths"]) == len(found["teacher_depths"])


@pytest.mark.parametrize(("teacher", "student"), FEATURE_ONLY)
def test_unresolved_it_stands_on_the_papers_student_layers_and_the_teachers_last(
    student: str, teacher: str, facts: Facts
) -> None:
    mine, theirs = (networks.form(name, 100, (3, 32, 32)) for name in (student, teacher))
    with torch.device("meta"):
        method = create("feature_only", mine, theirs, facts)
    assert isinstance(method, FeatureOnly)
    assert list(method.teacher_depths) == layers(theirs)[-4:]
    assert [project.weight.shape[:2] for project in method.project] == [
        (theirs.form(t).channels, mine.form(s).channels) for s, t in method.pairs
    ]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"teacher_depths": (1, 9)}, "teacher_depths must be layers from 0 to 7 in rising order, got [1, 9]"),
        ({"teacher_depths": (-1, 2)}, "teacher_depths must be layers from 0 to 7 in rising order, got [-1, 2]"),
        ({"student_depths": (2, 1)}, "student_depths must be layers from 0 to 4 in rising order, got [2, 1]"),
        ({"student_depths": ()}, "student_depths must be layers from 0 to 4 in rising order, got []"),
        ({"student_depths": (1, 2), "teacher_depths": (3,)}, "must have the same length, got 2 and 1"),
        ({"k0": 1.0}, "k0 must be above 1, and samples and class_samples at least 1, got 1.0, 5000 and 500"),
    ],
)
def test_what_cannot_be_is_refused(
    params: dict[str, Any], sentence: str, student: Chain, teacher: Chain, facts: Facts
) -> None:
    with pytest.raises(Refusal) as refusal:
        create("feature_only", student, teacher, facts, **params)
    assert str(refusal.value).startswith("feature_only: ") and sentence in str(refusal.value)


def test_a_grid_may_name_layers_by_a_list_or_by_a_word() -> None:
    assert complete("feature_only", {"teacher_depths": [12, 13, 14, 15]})["teacher_depths"] == (12, 13, 14, 15)
    assert complete("feature_only", {"teacher_depths": "standard"})["teacher_depths"] == "standard"
    with pytest.raises(Refusal, match="teacher_depths"):
        complete("feature_only", {"teacher_depths": "best"})
