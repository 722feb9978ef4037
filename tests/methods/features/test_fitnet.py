"""Hints: one stage of the teacher predicted from one of the student."""

import pytest
from torch import nn
from torch.func import functional_call

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain
from kdbench.methods.features.fitnet import FitNet, hint_loss, regressor
from kdbench.methods.forms import Form
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden


@pytest.mark.golden("FitNet_hint_mse")
def test_a_hint_is_missed_by_the_mean_of_squares(golden: Golden) -> None:
    golden.check(hint_loss(golden["fs"][..., None, None], golden["ft"][..., None, None]))


@pytest.mark.golden("FitNet", "FitNet_eval_bn")
def test_the_regressor_is_the_fields(golden: Golden) -> None:
    """At equal sizes, at half of it and at twice of it."""
    names = {key.split("/")[-1]: value for key, value in golden.inputs.items()}
    [student] = [value for name, value in names.items() if name[0] == "s"]
    [teacher] = [value for name, value in names.items() if name[0] == "t"]
    weights = {name.split("_", 1)[1]: value for name, value in names.items() if name.startswith("fit")}
    keys = {"conv_w": "0.weight", "conv_b": "0.bias", "bn_w": "1.weight", "bn_b": "1.bias"}
    forms = [Form("map", value.shape[1], (value.shape[2], value.shape[3])) for value in (student, teacher)]
    module = regressor(*forms).to(golden.dtype).train(golden.entry["name"] == "FitNet")
    guess = functional_call(module, {key: weights[name] for name, key in keys.items()}, (student,))
    golden.check(hint_loss(guess, teacher))


def test_where_the_hint_is_tokens_a_guess_may_be_negative() -> None:
    source = Form("map", 4, (2, 2))
    assert isinstance(regressor(source, Form("map", 4, (2, 2)))[-1], nn.ReLU)
    assert isinstance(regressor(source, Form("tokens", 4, (2, 2), 1))[-1], nn.Identity)


@pytest.mark.parametrize(
    ("teacher", "student", "stage", "expected"),
    [
        ("resnet56", "resnet20", 3, "32@16x16 32@16x16"),
        ("vgg13", "vgg8", 3, "256@8x8 256@8x8"),
        ("ResNet50", "MobileNetV2", 3, "16@8x8 512@16x16"),
        ("fo_vit_b", "resnet20", 4, "64@8x8 768@8x8"),
        # the stem has no answer: the stage behind it has; and there are but four taps
        ("resnet56", "resnet20", 1, "16@32x32 16@32x32"),
        ("resnet56", "resnet20", 9, "64@8x8 64@8x8"),
    ],
)
def test_stages_are_the_students_taps(teacher: str, student: str, stage: int, expected: str, facts: Facts) -> None:
    one, other = (networks.build(name, classes=100, image=(3, 32, 32), device="meta") for name in (student, teacher))
    method = FitNet(one, other, facts, stage=stage)
    assert " ".join(str(form) for form in method.forms[0]) == expected
    assert method.needs().student == {method.pairs[0][0]}


def test_a_stage_that_cannot_be_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="fitnet: stage must be 1 or more, got 0"):
        FitNet(student, teacher, facts, stage=0)
