"""Logit standardisation: Sun, Ren, Li, Wang and Cao, "Logit Standardization in Knowledge Distillation" (2024), arXiv
2403.01427."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import silent_where_blank
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, hyper_parameters
from kdbench.refusal import Refusal

# The values that the paper's code sets if only its option to standardise is set.
PUBLISHED: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 2.0, "weight": 9.0},
    "dkd": {"temperature": 2.0, "alpha": 9.0, "beta": 72.0},
    "multilevel": {"temperature": 2.0, "weight": 9.0},
    "ctkd": {"weight": 9.0},
}


@METHODS.register("standardized")
class Standardized(Method):
    """Another logit method (``method``, with its own ``params``) that sees z-scored logits instead of raw ones.

    Each sample's logits become (z − mean) / (std + 1e-7) over its classes, with the unbiased std, in both networks and
    in all views. The student must match the teacher's relations between classes, and no longer the size of its logits.
    Cross-entropy uses raw logits. Its weight is the inner method's, unless ``ce_weight`` is given.

    By default the inner method is KD as the paper runs it: ce_weight 0.1, weight 9, T = 2. As in the paper's code, DKD
    has alpha 9, beta 72 and T = 2, multi-level distillation has weight 9 and T = 2 instead of 4 (so it uses 2 twice),
    and CTKD has weight 9. The logs of that code have other values for many pairs. Other methods run with their own
    defaults. A method may name ``raw_terms``, which stay on the raw logits.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        method: str = "kd",
        params: dict[str, Any] | None = None,
        ce_weight: float | None = None,
    ) -> None:
        kind = METHODS[method]
        if kind is type(self):
            raise Refusal("standardized: method must be another one, got 'standardized'")
        if kind.source != "logits":
            raise Refusal(f"standardized: method must draw on logits, got '{method}', which draws on {kind.source}")
        weight = {} if ce_weight is None else {"ce_weight": ce_weight}
        inner = kind(student, teacher, facts, **completed(method, params) | weight)
        if (needs := inner.needs()).student or needs.teacher or needs.teacher_embedding or needs.live_teacher:
            raise Refusal(f"standardized: method must read only logits, got '{method}', which reads more of a network")
        super().__init__(student, teacher, facts, ce_weight=inner.ce_weight)
        self.inner = inner
        self.raw: frozenset[str] = getattr(kind, "raw_terms", frozenset())
        self.phases = inner.phases

    @classmethod
    def resolve(cls, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> dict[str, Any]:
        return params | {"params": completed(params.get("method", "kd"), params.get("params"))}

    def needs(self) -> Needs:
        return self.inner.needs()

    def listens(self, phase: str) -> bool:
        return self.inner.listens(phase)

    def prepare(self) -> None:
        self.inner.prepare()

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        terms = self.inner.losses(on_standardised(student), on_standardised(teacher), batch)
        if self.raw:
            raw = self.inner.losses(student, teacher, batch)
            terms |= {name: value for name, value in raw.items() if name in self.raw}
        return terms

    def deployed(self, student: Chain) -> nn.Module:
        return self.inner.deployed(student)


def completed(method: str, params: dict[str, Any] | None) -> dict[str, Any]:
    """A method's parameters: the given ones, else the paper's, else the method's own defaults."""
    defaults = {name: parameter.default for name, parameter in hyper_parameters(METHODS[method]).items()}
    return defaults | PUBLISHED.get(method, {}) | (params or {})


def on_standardised(trace: Trace) -> Trace:
    """The same trace with z-scored logits, also in each view."""
    return replace(trace, logits=standardised(trace.logits), views=tuple(map(on_standardised, trace.views)))


def standardised(logits: Tensor) -> Tensor:
    """Each sample's logits with mean 0 and standard deviation 1."""
    logits = silent_where_blank(logits)
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)
