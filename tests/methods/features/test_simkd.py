"""The teacher's classifier reads the student's features."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from kdbench.benchmark import networks
from kdbench.benchmark.records.weights import parameters
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.benchmark.networks.test_pairs import step
from tests.conftest import Golden, Learn, MakeBatch
from tests.methods.golden_methods import heard, losses, maps, network
from tests.pairs import STANDARD

FACTS = Facts(classes=5, labels=torch.arange(5), batch=2, steps=1, epochs=1)


@pytest.mark.golden("SimKD")
def test_projector_and_loss_are_the_authors(golden: Golden, make_batch: MakeBatch) -> None:
    mine, theirs = maps(golden, "s"), maps(golden, "t")
    method = create("simkd", network(mine), network(theirs), FACTS)
    golden.check(losses(method, golden, heard(method, mine, theirs), make_batch())["simkd"])


@pytest.mark.golden("SimKD")
def test_the_teachers_classifier_answers_as_the_authors_does(golden: Golden) -> None:
    method = create("simkd", network(maps(golden, "s")), network(maps(golden, "t")), FACTS).to(golden.dtype)
    given = {key.split("/project.")[1]: value for key, value in golden.inputs.items() if "/project." in key}
    projected = functional_call(method.project, given, (golden["s0"],))
    logits = F.linear(projected.mean((2, 3)), golden["classifier_weight"], golden["classifier_bias"])
    expected = torch.tensor(golden.entry["parts64"]["logits"], dtype=golden.dtype)
    assert (logits.flatten() - expected).norm() < golden.tolerance * expected.norm()


def test_what_is_shipped_is_backbone_projector_and_the_teachers_classifier(
    student: Chain, teacher: Chain, facts: Facts
) -> None:
    method = create("simkd", student, teacher, facts)
    shipped = method.deployed(student)
    backbone = parameters(student) - parameters(student.classifier)
    assert parameters(shipped) == backbone + parameters(method) + parameters(teacher.classifier)
    images = torch.randn(3, 1, 8, 8)
    shipped.eval()
    projected = method.project.compared(student.trace(images, {method.mine})[method.mine])
    assert torch.equal(shipped(images), teacher.classifier(projected.mean((2, 3))))


def test_what_is_shipped_has_the_teachers_answers_where_the_features_match(teacher: Chain, facts: Facts) -> None:
    pupil = copy.deepcopy(teacher)
    method = create("simkd", pupil, teacher, facts)
    method.project.compared = lambda value: value  # a projector that has nothing left to learn
    images = torch.randn(3, 1, 8, 8)
    assert torch.allclose(method.deployed(pupil).eval()(images), teacher.eval()(images), atol=1e-6)


def test_only_the_features_teach(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    method = create("simkd", student, teacher, facts)
    classifiers = [copy.deepcopy(chain.classifier.state_dict()) for chain in (student, teacher)]
    history = learn(student, teacher, method)
    assert history[-1].terms["task"] == 0 < history[-1].terms["simkd"] < history[0].terms["simkd"]
    for chain, before in zip((student, teacher), classifiers, strict=True):
        assert all(torch.equal(value, before[key]) for key, value in chain.classifier.state_dict().items())


def test_no_standard_pair_is_refused() -> None:
    for teacher_name, student_name in STANDARD:
        student, teacher = (networks.form(name, 5, (3, 32, 32)) for name in (student_name, teacher_name))
        with torch.device("meta"):
            create("simkd", student, teacher, FACTS)


@pytest.mark.parametrize(
    "pair",
    [
        *(("vgg13", "MobileNetV2"), ("wrn_40_2", "ShuffleV1"), ("timm:mobilenetv3_small_100", "resnet20")),
        *(("timm:vit_tiny_patch16_224", "resnet20"), ("fo_resnet9", "timm:swin_tiny_patch4_window7_224")),
        *(("timm:resnetv2_50", "resnet20"), ("resnet20", "timm:deit_tiny_distilled_patch16_224")),
    ],
)
def test_a_step_is_taken_and_the_shipped_network_answers(pair: tuple[str, str]) -> None:
    torch.manual_seed(0)
    teacher, student = (networks.build(name, 5, (3, 32, 32)) for name in pair)
    assert step(student, teacher, "simkd")["simkd"] > 0
    shipped = create("simkd", student, teacher, FACTS).deployed(student)
    logits = shipped.eval()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 5) and logits.isfinite().all()


def test_a_factor_below_one_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="simkd: factor must be at least 1, got 0"):
        create("simkd", student, teacher, facts, factor=0)
