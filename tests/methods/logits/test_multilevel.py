"""Multi-level logit distillation, as its authors' code computes it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.logits.divergence import gram_distance, softened_kl
from kdbench.methods.logits.multilevel import MultiLevel, multilevel, not_above_median
from kdbench.methods.method import Facts
from tests.conftest import Golden, Learn, MakeBatch
from tests.methods.logits.traces import trace


def softened(golden: Golden) -> tuple[Tensor, Tensor]:
    s, t = ((golden[name] / golden.parameters["T"]).softmax(1) for name in ("zs", "zt"))
    return s, t


@pytest.mark.golden("MLKD_cc_T2", "MLKD_cc_T4")
def test_class_level_at_one_temperature(golden: Golden) -> None:
    s, t = softened(golden)
    golden.check(gram_distance(s, t) / s.shape[1])


@pytest.mark.golden("MLKD_bc_T2", "MLKD_bc_T4")
def test_batch_level_at_one_temperature(golden: Golden) -> None:
    s, t = softened(golden)
    golden.check(gram_distance(s.T, t.T) / len(s))


@pytest.mark.golden("MLKD_total")
def test_all_levels_and_both_cross_entropies(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch, golden: Golden
) -> None:
    method = MultiLevel(student, teacher, facts, weight=1.0, ce_weight=1.0)
    first, strong = (f"{golden.entry['case']}_{view}/" for view in ("weak", "strong"))
    mine, theirs = (trace(golden[f"{first}z{who}"], golden[f"{strong}z{who}"]) for who in "st")
    batch = replace(make_batch(), labels=golden["y"])
    terms = method.losses(mine, theirs, batch) | {"task": batch.task(mine.logits)}

    parts = {
        "loss_ce": terms["task"] + terms["strong_task"],
        "loss_kd": terms["instance"],
        "loss_cc": terms["class"],
        "loss_bc": terms["batch"],
    }
    expected = golden.entry["parts64"]
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, rel=golden.tolerance)
    golden.check(sum(terms.values()))


def test_the_third_temperature_can_be_another_and_the_views_stay_where_they_were() -> None:
    torch.manual_seed(0)
    first, strong = torch.randn(2, 2, 8, 10, dtype=torch.float64).unbind()
    at = {t: multilevel((first[0], first[1]), (strong[0], strong[1]), t) for t in (2.0, 4.0)}
    share = not_above_median(first[1].softmax(1).amax(1))
    instance = {t: share * softened_kl(*first, t) + softened_kl(*strong, t) for t in at}
    torch.testing.assert_close(at[2.0]["instance"] - at[4.0]["instance"], instance[2.0] - instance[4.0])
    batch = {t: share * gram_distance(*(z.div(t).softmax(1).T for z in first)) / 8 for t in at}
    torch.testing.assert_close(at[2.0]["batch"] - at[4.0]["batch"], batch[2.0] - batch[4.0])


@pytest.mark.parametrize(("count", "share"), [(1, 1.0), (2, 0.5), (5, 0.6), (8, 0.5)])
def test_about_half_of_the_values_are_not_above_their_median(count: int, share: float) -> None:
    assert not_above_median(torch.randperm(count).double()) == pytest.approx(share)


def test_learns_from_both_views(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    history = learn(student, teacher, MultiLevel(student, teacher, facts))
    terms = history[-1].terms
    assert set(terms) == {"instance", "batch", "class", "strong_task", "task"}
    assert terms["strong_task"] > 0 and terms["strong_task"] != terms["task"]
