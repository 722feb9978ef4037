"""Hyper-parameters are held against what a method's constructor declares, ours and a user's alike."""

from typing import Any, Literal

import pytest
from torch import Tensor

from kdbench.benchmark.plans import parameters
from kdbench.benchmark.plans.parameters import complete, shown
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method
from kdbench.refusal import Refusal


class Mine(Method):
    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 1,
        depth: int | None = None,
        mode: Literal["soft", "hard"] = "soft",
        steps: tuple[int, ...] = (1, 2),
        free="anything",
    ) -> None:
        super().__init__(student, teacher, facts)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {}


class Demanding(Mine):
    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, alpha: float) -> None:
        super().__init__(student, teacher, facts)


@pytest.fixture(autouse=True)
def _mine() -> None:
    METHODS.register("mine")(Mine)
    METHODS.register("demanding")(Demanding)


def test_defaults_are_filled_in_and_are_of_the_declared_types() -> None:
    params = complete("mine", {})
    assert params == {"weight": 1.0, "depth": None, "mode": "soft", "steps": (1, 2), "free": "anything"}
    assert isinstance(params["weight"], float)  # else 1 and 1.0 would be two cells


def test_within_another_method_a_given_default_is_told() -> None:
    """That method's own may be another one: standardised, multi-level distillation begins from T = 2."""
    params = {"method": "multilevel", "params": {"temperature": 4}}
    assert complete("standardized", params)["params"] == {"temperature": 4.0}


def test_given_values_take_the_declared_types() -> None:
    params = complete("mine", {"weight": 2, "depth": 3, "mode": "hard", "steps": [4], "free": [5]})
    assert params == {"weight": 2.0, "depth": 3, "mode": "hard", "steps": (4,), "free": [5]}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"weigth": 1}, "weigth: mine has no parameter 'weigth'; did you mean 'weight'?"),
        ({"weight": "1"}, "weight: must be a number, got '1'"),
        ({"depth": 1.5}, "depth: must be a whole number, got 1.5"),
        ({"mode": "sotf"}, "mode: unknown value 'sotf'; did you mean 'soft'?"),
        ({"steps": [1, "x"]}, "steps[1]: must be a whole number, got 'x'"),
        ({"steps": 3}, "steps: must be a list, got 3"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_name(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal) as refusal:
        complete("mine", params)
    assert str(refusal.value) == sentence


def test_a_parameter_without_a_default_must_be_given() -> None:
    with pytest.raises(Refusal, match="demanding has no default for 'alpha': it must be given"):
        complete("demanding", {})
    assert complete("demanding", {"alpha": 1}) == {"alpha": 1.0}


def test_a_combination_has_its_members_parameters_under_their_names() -> None:
    params = complete("kd+mine", {"mine": {"weight": 3}})
    assert params["ce_weight"] is None
    assert params["kd"] == complete("kd", {})
    assert params["mine"] == complete("mine", {"weight": 3})


def test_the_parameters_of_a_method_within_another_are_held_against_that_one() -> None:
    assert complete("standardized", {"params": {"temperature": 2}})["params"] == {
        "temperature": 2.0
    }  # no more than given
    for params, sentence in [
        ({"temprature": 2}, "params.temprature: kd has no parameter 'temprature'; did you mean 'temperature'?"),
        ({"temperature": "2"}, "params.temperature: must be a number, got '2'"),
    ]:
        with pytest.raises(Refusal) as refusal:
            complete("standardized", {"params": params})
        assert str(refusal.value) == sentence
    with pytest.raises(Refusal, match=r"^standardized\.params\.weight: must be a number"):
        complete("crd+standardized", {"standardized": {"params": {"weight": "1"}}})


def test_what_is_shown_of_the_parameters_is_what_is_unusual() -> None:
    assert shown("kd", complete("kd", {})) == "kd"
    assert shown("kd", complete("kd", {"temperature": 2})) == "kd(temperature=2.0)"
    assert shown("crd+kd", complete("crd+kd", {"kd": {"weight": 1}})) == "crd+kd(kd.weight=1.0)"
    assert shown("mine", complete("mine", {"steps": [1, 2]}) | {"steps": [1, 2]}) == "mine"  # as a record has it


def test_a_method_that_is_not_loaded_is_shown_by_its_name() -> None:
    assert shown("elsewhere", {"weight": 1}) == "elsewhere"


def test_what_a_constructor_declares_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown("kd", {})
    monkeypatch.setattr(parameters, "get_type_hints", None)  # whoever looks again falls
    monkeypatch.setattr(parameters, "hyper_parameters", None)
    assert shown("kd", {"temperature": 2.0}) == "kd(temperature=2.0)"
