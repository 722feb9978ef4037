"""Factor transfer: a paraphraser that learns from the teacher alone, and then stands still."""

import copy

import pytest
import torch

from kdbench.methods.chain import Chain
from kdbench.methods.features.factor import FactorTransfer, factor_distance
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn, MakeBatch
from tests.methods.golden_methods import FACTS, heard, losses, maps, network


@pytest.mark.golden("FT")
def test_factors_and_their_distance_are_the_published_codes(golden: Golden, make_batch: MakeBatch) -> None:
    mine, theirs = maps(golden, "s"), maps(golden, "t")
    method = FactorTransfer(network(mine), network(theirs), FACTS, weight=1.0)
    golden.check(losses(method, golden, heard(method, mine, theirs), make_batch())["factor"])


@pytest.mark.golden("FT_paraphrase")
def test_before_it_the_map_is_rebuilt_as_by_the_published_code(golden: Golden, make_batch: MakeBatch) -> None:
    theirs = maps(golden, "t")
    method = FactorTransfer(network(theirs), network(theirs), FACTS)
    golden.check(losses(method, golden, heard(method, theirs, theirs), make_batch(phase="ft"))["paraphrase"])


def test_the_paraphraser_learns_first_and_stands_still_in_the_main_phase(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn
) -> None:
    torch.manual_seed(0)
    method = FactorTransfer(student, teacher, facts, initial_epochs=10)
    parts = {"paraphraser": method.paraphraser, "rebuild": method.rebuild, "translator": method.translator}
    start = copy.deepcopy(method.state_dict())
    after: dict[str, dict[str, torch.Tensor]] = {}
    history = learn(student, teacher, method, watch=lambda live: after.update({live.phase: copied(method)}))
    assert history[9].terms["paraphrase"] < 0.8 * history[0].terms["paraphrase"]

    def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
        return {name for name in parts for key in one if key.startswith(name) and not torch.equal(one[key], other[key])}

    assert moved(start, after["ft"]) == {"paraphraser", "rebuild"}
    assert moved(after["ft"], after["main"]) == {"translator"}


def copied(method: FactorTransfer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(method.state_dict())


def test_factors_are_compared_by_direction_alone() -> None:
    factor = torch.randn(2, 3, 4, 4)
    assert factor_distance(5 * factor, factor) < 1e-7
    worst = factor_distance(-factor, factor)
    torch.testing.assert_close(worst, 2 * torch.nn.functional.normalize(factor.flatten(1)).abs().mean())


def test_the_factor_is_narrower_than_the_teachers_map_by_its_rate(student: Chain, teacher: Chain, facts: Facts) -> None:
    width = teacher.form(teacher.stages[-1]).channels
    method = FactorTransfer(student, teacher, facts, rate=0.25)
    assert method.paraphraser(torch.randn(2, width, 4, 4)).shape == (2, width // 4, 4, 4)


def test_a_rate_that_cannot_be_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match=r"ft: rate must be above 0, got 0\.0"):
        FactorTransfer(student, teacher, facts, rate=0.0)
