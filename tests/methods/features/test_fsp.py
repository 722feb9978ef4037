"""The flow between stages: taught in a phase of its own, to students of any width."""

import pytest
import torch

from kdbench.benchmark.networks import build
from kdbench.methods.chain import Chain
from kdbench.methods.features.fsp import FlowOfSolutionProcedure, flow_distance, from_the_stem
from kdbench.methods.method import Facts
from kdbench.refusal import Refusal
from tests.conftest import Golden, Learn, seeded
from tests.methods.features.golden_maps import stages


@pytest.mark.golden("FSP")
def test_the_distance_is_the_fields(golden: Golden) -> None:
    golden.check(flow_distance(stages(golden)))


def test_the_flow_is_taught_first_and_then_no_more(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    torch.manual_seed(0)
    history = learn(student, teacher, FlowOfSolutionProcedure(student, teacher, facts, initial_epochs=10))
    assert history[9].terms["flow"] < 0.8 * history[0].terms["flow"]
    assert [epoch.phase for epoch in history] == ["fsp"] * 10 + ["main"] * 2
    assert history[-1].terms.keys() == {"task"}


def test_a_weight_keeps_the_flow_in_the_main_phase(student: Chain, teacher: Chain, facts: Facts, learn: Learn) -> None:
    method = FlowOfSolutionProcedure(student, teacher, facts, initial_epochs=1, weight=0.5)
    assert learn(student, teacher, method)[-1].terms.keys() == {"flow", "task"}


def test_equal_widths_need_no_adapter(facts: Facts) -> None:
    deep = seeded("resnet14x0.25", 2)
    assert not list(FlowOfSolutionProcedure(seeded("resnet8x0.25", 1), deep, facts).parameters())
    assert len(list(FlowOfSolutionProcedure(seeded("resnet8x0.5", 1), deep, facts).parameters())) == 4


@pytest.mark.parametrize(
    ("one", "other", "flows"),
    [("resnet8x0.25", "resnet14x0.25", 3), ("wrn_16_1", "wrn_40_1", 3), ("MobileNetV2", "vgg8", 3)],
)
def test_flows_begin_at_the_stem_where_the_first_stage_still_has_its_resolution(
    one: str, other: str, flows: int
) -> None:
    student, teacher = (build(name, 10, (3, 32, 32)) for name in (one, other))
    pairs = from_the_stem(student, teacher)
    assert len(pairs) == flows + 1 and pairs == sorted(pairs)
    assert (pairs[0] == (student.stages[0], teacher.stages[0])) == (one != "MobileNetV2")


def test_what_cannot_be_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="fsp: initial_epochs must be at least 1, got 0"):
        FlowOfSolutionProcedure(student, teacher, facts, initial_epochs=0)
    student.stages = student.stages[-1:]
    with pytest.raises(Refusal, match="fsp: student and teacher must have two stages in common, got 1"):
        FlowOfSolutionProcedure(student, teacher, facts)
