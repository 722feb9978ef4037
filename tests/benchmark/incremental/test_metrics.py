"""Against matrices worked out by hand."""

import pytest

from kdbench.benchmark.incremental.metrics import arrival, backward_transfer, forgetting

# Task 0 is at its best after task 1 (90), and so is task 1 after itself (70).
MATRIX = [[80.0], [90.0, 70.0], [60.0, 50.0, 40.0]]


def test_forgetting_counts_from_the_best_accuracy_before_the_last_task() -> None:
    assert forgetting(MATRIX) == ((90 - 60) + (70 - 50)) / 2


def test_backward_transfer_counts_from_when_a_task_was_learned() -> None:
    assert backward_transfer(MATRIX) == ((60 - 80) + (50 - 70)) / 2


def test_a_task_that_gained_later_was_not_forgotten() -> None:
    matrix = [[50.0], [70.0, 30.0]]
    assert (forgetting(matrix), backward_transfer(matrix)) == (-20, 20)


def test_after_one_task_nothing_is_forgotten() -> None:
    assert (forgetting([[70.0]]), backward_transfer([[70.0]])) == (0, 0)


def test_the_average_is_over_what_was_seen_after_each_task_and_the_last_of_it_is_final() -> None:
    made = arrival([[3, 1], [0], [2]], MATRIX, seen=[80.0, 83.0, 52.5])
    assert (made.average, made.final) == (pytest.approx((80 + 83 + 52.5) / 3), 52.5)
