"""Cells that are trained in turns, a step each, ask one teacher once: those with the same seed see the same images."""

from dataclasses import replace

from kdbench.benchmark.training.teacher import Answers, LiveTeacher
from kdbench.methods.chain import UNASKED, Chain, Trace
from kdbench.methods.method import Batch, Needs


class Together:
    """The cells at one table. What they need is learned as each of them begins."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.shared: dict[tuple[str, ...], SharedTeacher] = {}

    def teacher(self, chain: Chain, needs: Needs) -> Answers:
        """One that answers all whom it is asked by, where its answers can be the same for all."""
        if needs.input_grad or needs.teacher_train:
            return LiveTeacher(chain, needs)
        shared = self.shared.setdefault(needs.views, SharedTeacher(chain, needs))
        shared.needs = replace(
            shared.needs,
            teacher=shared.needs.teacher | needs.teacher,
            teacher_embedding=shared.needs.teacher_embedding or needs.teacher_embedding,
        )
        return shared


class SharedTeacher:
    """Keeps its last answer, unless somebody wrote into it. A step is known by the seed of its own draws: it says all
    that its images depend on."""

    def __init__(self, chain: Chain, needs: Needs) -> None:
        self.chain, self.needs = chain, needs
        self._last: tuple[int, Needs, Trace, list[int]] | None = None

    def __call__(self, batch: Batch) -> Trace:
        step = batch.generator.initial_seed()
        if self._last is None or self._last[:2] != (step, self.needs) or self._last[3] != _versions(self._last[2]):
            answer = LiveTeacher(self.chain, self.needs)(batch)
            self._last = step, self.needs, answer, _versions(answer)
        return self._last[2]


def _versions(trace: Trace) -> list[int]:
    """How often each tensor was written into."""
    tensors = [value for value in (trace.logits, trace.embedding, *trace.features.values()) if value is not UNASKED]
    return [tensor._version for tensor in tensors] + [number for view in trace.views for number in _versions(view)]
