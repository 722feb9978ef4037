"""Accuracy on old classes after new classes have arrived."""

from collections.abc import Sequence

import msgspec


class Arrival(msgspec.Struct, kw_only=True):
    """The accuracies of a sequence of tasks, in percent; the network is never given the task of a test image."""

    classes: list[list[int]]  # of each task, as numbered in the data set
    matrix: list[list[float]]  # row i, column j: on the classes of task j after task i, among all classes seen so far
    seen: list[float]  # after each task, on all classes seen so far
    average: float  # the mean of ``seen``: average incremental accuracy
    final: float  # the last value of ``seen``
    forgetting: float  # the mean over old tasks of the best accuracy before the last task, minus the last accuracy
    backward_transfer: float  # the mean over old tasks of the last accuracy, minus that right after the task


def arrival(classes: list[list[int]], matrix: list[list[float]], seen: list[float]) -> Arrival:
    return Arrival(
        classes=classes,
        matrix=matrix,
        seen=seen,
        average=sum(seen) / len(seen),
        final=seen[-1],
        forgetting=forgetting(matrix),
        backward_transfer=backward_transfer(matrix),
    )


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Forgetting (Chaudhry et al. 2018); it is 0 with a single task."""
    *before, last = matrix
    lost = [max(row[task] for row in before[task:]) - last[task] for task in range(len(before))]
    return sum(lost) / max(len(lost), 1)


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Backward transfer (Lopez-Paz and Ranzato 2017)."""
    *before, last = matrix
    gained = [last[task] - row[task] for task, row in enumerate(before)]
    return sum(gained) / max(len(gained), 1)
