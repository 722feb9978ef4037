"""A method can train itself, or the student, in phases of their own before the main one."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.combination import Combination
from kdbench.methods.logits.kd import KD
from kdbench.methods.method import Batch, Facts, Method, Needs, Phase
from tests.conftest import Learn

State = dict[str, Tensor]


class Prepared(Method):
    """First an adapter, then the student; in the main phase nothing pulls at either."""

    source = "features"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts, ce_weight=0.0)
        self.phases = (Phase("adapter", epochs=1, student=False), Phase("student", epochs=2, method=False))
        width = teacher.embedding_width
        self.adapter = nn.Sequential(nn.Linear(student.embedding_width, width), nn.BatchNorm1d(width))
        self.modes: dict[str, tuple[bool, float]] = {}  # by phase: is the adapter trained? the last epoch

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        self.modes[batch.phase] = self.adapter.training, batch.epoch.item()
        weight = 0.0 if batch.phase == "main" else 1.0
        return {"feature": weight * F.mse_loss(self.adapter(student.embedding), teacher.embedding)}


def same(one: State, other: State) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_each_phase_trains_what_it_names_with_an_optimiser_of_its_own(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn
) -> None:
    method = Prepared(student, teacher, facts)
    # After each phase's last step: the student and the method as they were then.
    after: dict[str, tuple[State, State]] = {"start": states(student, method)}
    history = learn(student, teacher, method, watch=lambda live: after.update({live.phase: states(student, method)}))

    assert [(epoch.phase, epoch.epoch) for epoch in history] == [
        *(("adapter", 1), ("student", 1), ("student", 2)),
        *(("main", 1), ("main", 2)),
    ]
    assert [epoch.score is None for epoch in history] == [True, True, True, False, False]
    assert method.modes == {"adapter": (True, 1), "student": (False, 2), "main": (True, 2)}

    (student0, method0), (student1, method1), (student2, method2), (student3, _) = after.values()
    assert same(student0, student1) and not same(method0, method1)  # weights and batch norms' statistics alike
    assert not same(student1, student2) and same(method1, method2)
    # Momentum that outlived its phase would go on pulling.
    weights = dict(student.network.named_parameters()).keys()
    assert same({name: student2[name] for name in weights}, student3)


def states(student: Chain, method: Method) -> tuple[State, State]:
    return copy.deepcopy(student.state_dict()), copy.deepcopy(method.state_dict())


def test_in_a_combination_a_members_phase_is_its_own(
    student: Chain, teacher: Chain, facts: Facts, learn: Learn
) -> None:
    members: dict[str, Any] = {"prepared": Prepared(student, teacher, facts), "kd": KD(student, teacher, facts)}
    history = learn(student, teacher, Combination(student, teacher, facts, members, ce_weight=None))
    terms = {epoch.phase: set(epoch.terms) for epoch in history}
    assert terms["adapter"] == terms["student"] == {"prepared.feature"}
    assert terms["main"] == {"prepared.feature", "kd.kd", "task"}


@pytest.mark.parametrize(
    ("name", "params", "phases"),
    [
        ("kd", {}, {"main"}),
        ("ab", {"initial_epochs": 1}, {"ab"}),
        ("ab", {"initial_epochs": 1, "weight": 1.0}, {"ab", "main"}),
        ("fsp", {"initial_epochs": 1}, {"fsp"}),
        ("ab+kd", {"ab": {"initial_epochs": 1}}, {"ab", "main"}),
        ("ab+ce", {"ab": {"initial_epochs": 1}}, {"ab"}),
    ],
)
def test_a_teacher_to_whom_nobody_listens_is_not_asked_and_nothing_else_changes(
    name: str,
    params: dict[str, Any],
    phases: set[str],
    student: Chain,
    teacher: Chain,
    facts: Facts,
    learn: Learn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learned(always: bool) -> tuple[State, set[str]]:
        own = copy.deepcopy(student)
        torch.manual_seed(0)
        method = methods.create(name, own, teacher, facts, **params)
        asked: list[None] = []
        heard: set[str] = set()

        def counted(*what: Any) -> Trace:
            asked.append(None)
            return trace(*what)

        def told(live: Any) -> None:
            if asked:
                heard.add(live.phase)
            asked.clear()

        with monkeypatch.context() as patch:
            patch.setattr(teacher, "trace", counted)
            if always:
                patch.setattr(type(method), "listens", lambda self, phase: True)
            learn(own, teacher, method, watch=told)
        return own.state_dict(), heard

    trace = teacher.trace
    weights, heard = learned(always=False)
    assert heard == phases
    assert same(weights, learned(always=True)[0])
