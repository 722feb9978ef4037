"""Variational information distillation: a normal distribution whose variances learn, too."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from kdbench.methods.chain import Chain
from kdbench.methods.features.vid import SMALLEST, Gaussian, VariationalInformationDistillation
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn


@pytest.mark.golden("VID")
def test_the_negative_log_likelihood_is_the_fields(golden: Golden) -> None:
    names = {key.split("/")[-1]: value for key, value in golden.inputs.items()}
    [student] = [value for name, value in names.items() if name[0] == "s"]
    [teacher] = [value for name, value in names.items() if name[0] == "t"]
    keys = {"w1": "mean.0.weight", "w2": "mean.2.weight", "w3": "mean.4.weight", "log_scale": "log_scale"}
    weights = {keys[name.split("_", 1)[1]]: value for name, value in names.items() if name.startswith("vid")}
    q = Gaussian(student.shape[1], teacher.shape[1], golden.parameters["init_pred_var"])
    assert q.log_scale[0].item() == pytest.approx(golden.parameters["init_log_scale"])
    golden.check(functional_call(q, weights, (student, teacher)))


def test_variances_are_trained(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    method = VariationalInformationDistillation(student, teacher, facts)
    learn(student, teacher, method)
    for q in method.stages:
        assert not torch.allclose(F.softplus(q.log_scale) + SMALLEST, torch.tensor(5.0), rtol=1e-4)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 1e4])
def test_variances_begin_where_they_are_asked_to(student: Chain, teacher: Chain, facts: Facts, variance: float) -> None:
    method = VariationalInformationDistillation(student, teacher, facts, initial_variance=variance)
    for q in method.stages:
        torch.testing.assert_close(F.softplus(q.log_scale) + SMALLEST, torch.full_like(q.log_scale, variance))


def test_a_variance_that_cannot_be_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match=r"vid: initial_variance must be above 1e-05, got 0\.0"):
        VariationalInformationDistillation(student, teacher, facts, initial_variance=0.0)
