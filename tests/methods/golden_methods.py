"""Whole methods on a golden entry: its maps as traces of networks that are nothing but forms, its weights as theirs."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method
from tests.conftest import Golden

FACTS = Facts(classes=10, labels=torch.arange(10), batch=8, steps=1, epochs=1)


class Answer(nn.Module):
    """A link that answers with a value of one shape, whatever it is shown."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, value: Tensor) -> Tensor:
        return value.new_zeros(len(value), *self.shape)


def network(maps: Sequence[Tensor], *, width: int | None = None, normed: bool = False) -> Chain:
    """One whose stages have the forms of these maps, each behind a ReLU or a batch norm; an embedding follows."""
    width = width or maps[-1].shape[1]
    ends = [nn.BatchNorm2d(value.shape[1]) if normed else nn.ReLU() for value in maps]
    stages = [link for value, end in zip(maps, ends, strict=True) for link in (Answer(*value.shape[1:]), end)]
    links = nn.Sequential(*stages, Answer(width), nn.Linear(width, FACTS.classes))
    return Chain(links, links, stages=range(2, 2 * len(maps) + 1, 2))


def maps(golden: Golden, network: str) -> list[Tensor]:
    """The student's maps (s0, s1, ...) or the teacher's (t0, t1, ...)."""
    return [value for key, value in golden.inputs.items() if key.split("/")[-1] in {f"{network}{i}" for i in range(9)}]


def heard(method: Method, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[Trace, Trace]:
    """The traces of two networks whose values at the depths that the method asks for are given."""
    needs = method.needs()
    return _trace(needs.student, mine), _trace(needs.teacher, theirs)


def losses(method: Method, golden: Golden, traces: tuple[Trace, Trace], batch: Batch) -> dict[str, Tensor]:
    """What the method answers with the weights that the entry has for it."""
    weights = {key.split("/", 1)[1]: value for key, value in golden.inputs.items()}
    given = {f"method.{name}": weights[name] for name in weights.keys() & method.state_dict().keys()}
    answer: dict[str, Tensor] = functional_call(_Losses(method.to(golden.dtype)), given, (*traces, batch))
    return answer


def _trace(depths: Collection[int], values: Sequence[Tensor]) -> Trace:
    logits = torch.zeros(len(values[0]), FACTS.classes, dtype=values[0].dtype)
    return Trace(logits, embedding=logits, features=dict(zip(sorted(depths), values, strict=True)))


class _Losses(nn.Module):
    """A method whose losses are its output."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return self.method.losses(student, teacher, batch)
