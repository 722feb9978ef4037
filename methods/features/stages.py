"""Shared parts of the methods that compare two networks stage by stage."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.forms import Form, as_map, resized, smaller
from kdbench.methods.method import Facts, Method, Needs
from kdbench.refusal import Refusal


class Stagewise(Method):
    """A method that reads features at pairs of depths, student and teacher, all as maps.

    Tokens are placed on their grid. Tokens before the grid (a class token) have no place on a map and are left out.
    """

    source = "features"

    def __init__(
        self, student: Chain, teacher: Chain, facts: Facts, pairs: Sequence[tuple[int, int]], *, ce_weight: float
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.pairs = tuple(pairs)
        self.forms = [(student.form(mine), teacher.form(theirs)) for mine, theirs in pairs]

    def needs(self) -> Needs:
        mine, theirs = zip(*self.pairs, strict=True)
        return Needs(student=frozenset(mine), teacher=frozenset(theirs))

    def maps(self, student: Trace, teacher: Trace) -> list[tuple[Tensor, Tensor]]:
        """Pairs of maps, the student's and the teacher's."""
        return [
            (as_map(student[mine], form), as_map(teacher[theirs], other))
            for (mine, theirs), (form, other) in zip(self.pairs, self.forms, strict=True)
        ]


def spatial(name: str, student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """The aligned depths, without those where only one position can be compared: it has no spatial pattern."""
    pairs = aligned(student, teacher)
    forms = [(student.form(mine), teacher.form(theirs)) for mine, theirs in pairs]
    found = [pair for pair, both in zip(pairs, forms, strict=True) if math.prod(smaller(*both)) > 1]
    if not found:
        got = ", ".join(f"{mine} and {theirs}" for mine, theirs in forms)
        raise Refusal(f"{name}: some stage must have more than one position in both networks, got {got}")
    return found


def at_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps, the larger averaged down to the size of the smaller."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return resized(one, size), resized(other, size)


def widened(source: Form, target: Form) -> nn.Module:
    """A learned 1×1 convolution to the other network's width, or the identity where the widths agree."""
    if source.channels == target.channels:
        return nn.Identity()
    return nn.Conv2d(source.channels, target.channels, 1, bias=False)


def consecutive(name: str, student: Chain, teacher: Chain) -> list[tuple[int, int]]:
    """The aligned depths, for a method that relates each stage to the next."""
    pairs = aligned(student, teacher)
    if len(pairs) < 2:
        raise Refusal(f"{name}: student and teacher must have two stages in common, got {len(pairs)}")
    return pairs


def initial_epochs_of(name: str, epochs: int) -> int:
    """The length of an initial phase; a length below 1 is refused."""
    if epochs < 1:
        raise Refusal(f"{name}: initial_epochs must be at least 1, got {epochs}")
    return epochs
