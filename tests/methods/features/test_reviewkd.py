"""Deep levels help shallow ones to learn."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import mse_loss

from kdbench.benchmark import networks
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.features.reviewkd import Fusion, hierarchical
from kdbench.methods.method import Facts
from tests.benchmark.networks.test_pairs import step
from tests.conftest import Golden, MakeBatch
from tests.methods.golden_methods import heard, losses, maps, network
from tests.pairs import STANDARD

FACTS = Facts(classes=5, labels=torch.arange(5), batch=2, steps=1, epochs=1)


@pytest.mark.golden("ReviewKD_HCL")
def test_the_hierarchical_context_loss_is_the_authors(golden: Golden) -> None:
    levels = sum(key.split("/")[-1].startswith("s") for key in golden.inputs)
    golden.check(torch.stack([hierarchical(golden[f"s{i}"], golden[f"t{i}"]) for i in range(levels)]).sum())


@pytest.mark.golden("ReviewKD_ABF_mse")
def test_fusion_by_attention_is_the_authors(golden: Golden) -> None:
    middle, width_in = golden["c1"].shape[:2]
    target = golden["target"]
    fusion = Fusion(width_in, middle, target.shape[1], fuses=True).to(golden.dtype)
    given = {"conv1.0.weight": golden["c1"], "conv1.1.weight": golden["b1w"], "conv1.1.bias": golden["b1b"]}
    given |= {"conv2.0.weight": golden["c2"], "conv2.1.weight": golden["b2w"], "conv2.1.bias": golden["b2b"]}
    given |= {"attention.0.weight": golden["aw"], "attention.0.bias": golden["ab"]}
    fused, handed = functional_call(fusion, given, (golden["x"], golden["y"], tuple(target.shape[2:])))
    assert handed.shape[2:] == target.shape[2:]
    golden.check(mse_loss(fused, target))


@pytest.mark.golden("ReviewKD_total")
def test_all_levels_together_are_the_authors(golden: Golden, make_batch: MakeBatch) -> None:
    """The entry's last level is the embedding, as a map of one pixel."""
    values = [[*levels[:-1], levels[-1].flatten(1)] for levels in (maps(golden, "s"), maps(golden, "t"))]
    student, teacher = (network(levels[:-1], width=levels[-1].shape[1]) for levels in values)
    method = create("reviewkd", student, teacher, FACTS, weight=1.0, warmup=1)
    golden.check(losses(method, golden, heard(method, values[0], values[1]), make_batch())["reviewkd"])


def test_the_students_levels_are_activated_and_the_teachers_are_not_yet() -> None:
    """As in the authors' code. A residual net's taps lie behind activations, which are links of their own."""
    student, teacher = (networks.form(name, 5, (3, 32, 32)) for name in ("resnet20", "resnet32"))
    with torch.device("meta"):
        needs = create("reviewkd", student, teacher, FACTS).needs()
    assert needs.student == {*student.stages[1:], len(student) - 1}
    assert needs.teacher == {*(depth - 1 for depth in teacher.stages[1:]), len(teacher) - 1}


def test_the_term_grows_linearly_over_its_first_epochs(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = create("reviewkd", student, teacher, facts, warmup=4)

    def term(epoch: int) -> float:
        batch = replace(make_batch(method.needs()), epoch=torch.tensor(float(epoch)))
        return float(
            Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch), False)["reviewkd"].detach()
        )

    assert term(1) == pytest.approx(term(4) / 4)
    assert term(9) == pytest.approx(term(4))


def test_deep_levels_learn_from_what_a_shallow_one_must_match(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    """The deepest level's convolution is trained by the other levels' losses too."""
    method = create("reviewkd", student, teacher, facts)
    needs, batch = method.needs(), make_batch()
    trace, handed = student.trace(batch.images, needs.student), None
    for fusion, (form, _), (one, _) in zip(method.fusions, method.forms, method.pairs, strict=True):
        value = trace[one] if form.kind == "map" else trace[one][:, :, None, None]
        fused, handed = fusion(value, handed, form.size)
    fused.square().mean().backward()
    assert method.fusions[0].conv1[0].weight.grad.any()
    assert method.fusions[0].conv2[0].weight.grad is None


def test_no_standard_pair_is_refused() -> None:
    for teacher_name, student_name in STANDARD:
        student, teacher = (networks.form(name, 5, (3, 32, 32)) for name in (student_name, teacher_name))
        with torch.device("meta"):
            needs = create("reviewkd", student, teacher, FACTS).needs()
        assert len(needs.student) == len(needs.teacher) >= 4


@pytest.mark.parametrize(
    "pair",
    [
        *(("resnet32x4", "ShuffleV2"), ("vgg13", "MobileNetV2")),
        *(("timm:vit_tiny_patch16_224", "resnet20"), ("resnet20", "timm:deit_tiny_distilled_patch16_224")),
    ],
)
def test_a_step_is_taken(pair: tuple[str, str]) -> None:
    torch.manual_seed(0)
    teacher, student = (networks.build(name, 5, (3, 32, 32)) for name in pair)
    assert 0 < step(student, teacher, "reviewkd")["reviewkd"] < 1e4
