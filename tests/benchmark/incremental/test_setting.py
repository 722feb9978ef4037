"""How classes are shared out, and how many images of them are kept."""

from typing import Any

import msgspec
import pytest

from kdbench.benchmark.incremental.setting import Incremental
from kdbench.refusal import Refusal


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({"count": 5}, (2, 2, 2, 2, 2)),
        ({"count": 6, "base": 5}, (5, 1, 1, 1, 1, 1)),
        ({"count": 1}, (10,)),
    ],
)
def test_classes_come_in_equal_tasks_but_for_the_base(asked: dict[str, Any], sizes: tuple[int, ...]) -> None:
    assert Incremental(**asked).sizes(10) == sizes


@pytest.mark.parametrize(
    "asked",
    [
        {"count": 4},
        {"count": 10},
        {"count": 20},
        {"count": 5_000_000_000_000},
        {"count": 5_000_000_000_000, "base": 10},
        {"count": 3, "base": 12},
        {"count": 4, "base": 5},
        {"count": 2, "base": 10},
        {"count": 1, "base": 5},
    ],
)
def test_classes_that_cannot_be_shared_out_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="10 classes must split into"):
        Incremental(**asked).sizes(10)


def test_a_memory_is_shared_by_the_classes_seen_and_exemplars_are_not() -> None:
    assert [Incremental(count=5, memory=20).of_each(seen) for seen in (2, 4, 10)] == [10, 5, 2]
    assert [Incremental(count=5, exemplars=3).of_each(seen) for seen in (2, 4, 10)] == [3, 3, 3]
    assert Incremental(count=5, memory="all").of_each(2) is None
    assert Incremental(count=5).of_each(2) == 0


def test_a_memory_without_room_for_every_class_is_refused() -> None:
    with pytest.raises(Refusal, match="memory must hold an image of each of the 10 classes, got 9"):
        Incremental(count=5, memory=9).sizes(10)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"count": 5, "base": 2}, "base must differ from the 2 classes of each other task"),
        ({"count": 5, "choice": "random"}, "choice must be left out"),
        ({"count": 5, "choice": "random", "memory": "all"}, "choice must be left out"),
        ({"count": 1, "base": 10}, "base must be left out where all classes come in one task"),
        ({"count": 1, "memory": 20, "alignment": True}, "memory and alignment must be left out"),
    ],
)
def test_what_would_change_nothing_is_refused_and_makes_no_second_cell(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        Incremental(**asked).sizes(10)


def test_memory_and_exemplars_are_not_asked_for_together() -> None:
    with pytest.raises(msgspec.ValidationError, match="one of them must be 0"):
        msgspec.convert({"count": 5, "memory": 20, "exemplars": 2}, Incremental)
