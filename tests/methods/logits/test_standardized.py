"""Logit standardisation around other methods."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.kd import KD
from kdbench.methods.logits.standardized import Standardized, standardised
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs
from kdbench.refusal import Refusal
from tests.conftest import Golden, MakeBatch
from tests.methods.golden_methods import losses
from tests.methods.logits.traces import trace


@pytest.mark.golden("LogitStd_KD_T2")
def test_by_default_kd_as_the_paper_runs_it(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, golden: Golden
) -> None:
    method = Standardized(student, teacher, facts)
    assert method.ce_weight == 0.1
    terms = method.losses(trace(golden["zs"]), trace(golden["zt"]), make_batch())
    golden.check(terms["kd"] / 9)


@pytest.mark.golden("DKD_standardised")
def test_around_dkd(student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, golden: Golden) -> None:
    usual = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup": 0}
    method = Standardized(student, teacher, facts, method="dkd", params=usual)
    batch = replace(make_batch(), labels=golden["y"])
    golden.check(sum(method.losses(trace(golden["zs"]), trace(golden["zt"]), batch).values()))


@pytest.mark.golden("LogitStd_CTKD")
def test_around_ctkd(student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, golden: Golden) -> None:
    method = Standardized(student, teacher, facts, method="ctkd")
    batch = replace(make_batch(), epoch=torch.tensor(golden.parameters["epoch"], dtype=golden.dtype))
    terms = losses(method, golden, (trace(golden["zs"]), trace(golden["zt"])), batch)
    golden.check(terms["kd"] / 9)


@pytest.mark.golden("MLKD_total_standardised")
def test_around_multilevel_the_instance_level_alone(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, golden: Golden
) -> None:
    usual = {"temperature": 4.0, "weight": 1.0}
    method = Standardized(student, teacher, facts, method="multilevel", params=usual, ce_weight=1.0)
    first, strong = (f"{golden.entry['case']}_{view}/" for view in ("weak", "strong"))
    mine, theirs = (trace(golden[f"{first}z{who}"], golden[f"{strong}z{who}"]) for who in "st")
    batch = replace(make_batch(), labels=golden["y"])
    golden.check(sum(method.losses(mine, theirs, batch).values()) + batch.task(mine.logits))


class Listening(Method):
    """Says what it is told."""

    source = "logits"

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        traces = (student, *student.views, teacher, *teacher.views)
        return {"heard": torch.stack([trace.logits for trace in traces])}


class Peeping(KD):
    """Says that it looks behind the logits."""

    def needs(self) -> Needs:
        return Needs(live_teacher=True)


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_things", METHODS._things | {"listening": Listening, "peeping": Peeping})


def test_every_view_is_standardised(student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch) -> None:
    method = Standardized(student, teacher, facts, method="listening")
    weak, strong, theirs, also = 5 + 3 * torch.randn(4, 8, 10, dtype=torch.float64)
    heard = method.losses(trace(weak, strong), trace(theirs, also), make_batch())["heard"]
    assert torch.equal(heard, torch.stack([standardised(z) for z in (weak, weak, strong, theirs, theirs, also)]))
    torch.testing.assert_close(heard.mean(2), torch.zeros(6, 8, dtype=torch.float64))
    torch.testing.assert_close(heard.std(2), torch.ones(6, 8, dtype=torch.float64))


def test_the_inner_method_has_its_own_parameters_and_needs(student: Chain, teacher: Chain, facts: Facts) -> None:
    around = Standardized(student, teacher, facts, method="multilevel")
    assert around.needs() == METHODS["multilevel"](student, teacher, facts).needs()
    assert Standardized(student, teacher, facts, method="dkd").ce_weight == 1.0
    assert Standardized(student, teacher, facts, method="dkd", ce_weight=0.5).ce_weight == 0.5
    colder = Standardized(student, teacher, facts, params={"temperature": 1.0})
    assert (colder.inner.temperature, colder.inner.weight) == (1.0, 9.0)


def test_a_record_will_say_what_the_inner_method_ran_with(student: Chain, teacher: Chain, facts: Facts) -> None:
    plain = Standardized.resolve(student, teacher, facts, method="kd", params={"temperature": 1.0}, ce_weight=None)
    assert plain["params"] == {"temperature": 1.0, "weight": 9.0, "ce_weight": 0.1}


def test_methods_that_the_paper_standardised_run_as_it_ran_them(student: Chain, teacher: Chain, facts: Facts) -> None:
    """Weights nine times DKD's own, and nine in place of the others' 0.9."""
    dkd = Standardized(student, teacher, facts, method="dkd").inner
    assert (dkd.alpha, dkd.beta, dkd.temperature, dkd.warmup) == (9.0, 72.0, 2.0, 20)
    for name in ("kd", "multilevel", "ctkd"):
        around = Standardized(student, teacher, facts, method=name)
        assert (around.inner.weight, around.ce_weight) == (9.0, 0.1)
    assert Standardized(student, teacher, facts, method="multilevel").inner.temperature == 2.0


def test_what_the_inner_method_learns_is_learned(student: Chain, teacher: Chain, facts: Facts) -> None:
    around = Standardized(student, teacher, facts, method="ctkd")
    assert [name for name, _ in around.named_parameters()] == ["inner.theta"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "standardized"}, "method must be another one"),
        ({"method": "ce"}, "method must draw on logits, got 'ce', which draws on labels"),
        ({"method": "kdd"}, "did you mean 'kd'"),
        ({"method": "peeping"}, "method must read only logits, got 'peeping'"),
    ],
)
def test_what_cannot_be_standardised_is_refused(
    student: Chain, teacher: Chain, facts: Facts, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence):
        Standardized(student, teacher, facts, **arguments)
