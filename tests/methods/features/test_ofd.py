"""Pre-activation features, cut off at margins."""

import pytest
import torch
from torch import nn

from kdbench.benchmark import networks
from kdbench.methods import create
from kdbench.methods.features.ofd import margin, partial_distance
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.benchmark.networks.test_pairs import step
from tests.conftest import Golden, MakeBatch
from tests.methods.golden_methods import heard, losses, maps, network
from tests.pairs import STANDARD

FACTS = Facts(classes=5, labels=torch.arange(5), batch=2, steps=1, epochs=1)


@pytest.mark.golden("OFD")
def test_the_distances_of_all_stages_are_the_reference_codebases(golden: Golden, make_batch: MakeBatch) -> None:
    mine, theirs = maps(golden, "s"), maps(golden, "t")
    method = create("ofd", network(mine), network(theirs, normed=True), FACTS, weight=1.0)
    for i in range(len(mine)):
        golden.inputs |= {
            f"ours/connectors.{i}.project.weight": golden[f"ofd_conv{i}"],
            f"ours/connectors.{i}.norm.weight": golden[f"ofd_bnw{i}"],
            f"ours/connectors.{i}.norm.bias": golden[f"ofd_bnb{i}"],
            f"ours/margin{i}": golden[f"ofd_margin{i}"].flatten(),
        }
    golden.check(losses(method, golden, heard(method, mine, theirs), make_batch())["ofd"])


@pytest.mark.golden("OFD")
def test_margins_are_the_means_of_what_a_norm_leaves_negative(golden: Golden) -> None:
    for i in range(len(golden.parameters["stage_weights"])):
        weight, bias = golden[f"ofd_teacher_bn_w{i}"], golden[f"ofd_teacher_bn_b{i}"]
        norm = nn.BatchNorm2d(len(weight)).to(golden.dtype)
        norm.load_state_dict({"weight": weight, "bias": bias}, strict=False)
        expected = golden[f"ofd_margin{i}"].flatten()
        # The margins were stored in fp32, and far in the tail a fraction of two tiny numbers is not exact there.
        torch.testing.assert_close(margin(norm), expected, rtol=1e-4 if golden.dtype == torch.float32 else 1e-6, atol=0)


def test_a_channel_that_a_norm_has_switched_off_has_a_finite_margin() -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.zeros_(norm.weight)
    norm.bias.data = torch.tensor([-1.0, 0.0, 1.0])
    assert margin(norm).tolist() == [-1.0, 0.0, 0.0]


def test_what_both_would_discard_costs_nothing_and_all_else_does() -> None:
    edge = torch.tensor([-1.0])

    def distance(student: float, teacher: float) -> float:
        return float(partial_distance(torch.full((1, 1, 1, 1), student), torch.full((1, 1, 1, 1), teacher), edge))

    assert distance(-3.0, -5.0) == 0  # both below the margin
    assert distance(-0.5, -5.0) == 0.25  # to the margin, not to the teacher
    assert distance(-0.8, -0.5) == 0
    assert distance(-1.0, 2.0) == 9 == distance(5.0, 2.0)


def test_no_standard_pair_is_refused_and_every_tap_is_linear() -> None:
    for teacher_name, student_name in STANDARD:
        student, teacher = (networks.form(name, 5, (3, 32, 32)) for name in (student_name, teacher_name))
        with torch.device("meta"):
            needs = create("ofd", student, teacher, FACTS).needs()
        for chain, depths in ((student, needs.student), (teacher, needs.teacher)):
            assert len(depths) >= 3
            assert not any(isinstance(chain.links[depth - 1], nn.ReLU) for depth in depths)


@pytest.mark.parametrize(
    "pair", [("vgg13", "MobileNetV2"), ("wrn_40_2", "ShuffleV1"), ("timm:resnet18", "timm:vit_tiny_patch16_224")]
)
def test_a_step_is_taken(pair: tuple[str, str]) -> None:
    torch.manual_seed(0)
    teacher, student = (networks.build(name, 5, (3, 32, 32)) for name in pair)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert step(student, teacher, "ofd")["ofd"] > 0
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_teacher_without_batch_norm_is_refused() -> None:
    teacher, student = (networks.form(name, 5, (3, 32, 32)) for name in ("timm:vit_tiny_patch16_224", "resnet8"))
    with pytest.raises(
        Refusal, match=r"ofd: the teacher's stages must end in batch norms, .* VisionTransformer has none"
    ):
        create("ofd", student, teacher, FACTS)
