"""One teacher for cells that are trained in turns, one step each; cells with the same seed see the same images."""

from dataclasses import replace

from kdbench.benchmark.training.teacher import Answers, LiveTeacher
from kdbench.methods.chain import UNASKED, Chain, Trace
from kdbench.methods.method import Batch, Needs


class Together:
    """The shared teachers of a group of cells. The needs of each cell are added when it starts."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.shared: dict[tuple[str, ...], SharedTeacher] = {}

    def teacher(self, chain: Chain, needs: Needs) -> Answers:
        """A teacher shared by all cells, if its answers can be the same for all of them."""
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
    """Keeps its last answer, unless that was modified in place.

    The seed of a step's generator identifies the step: its images depend on nothing else.
    """

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
    """How often each tensor was modified in place."""
    tensors = [value for value in (trace.logits, trace.embedding, *trace.features.values()) if value is not UNASKED]
    return [tensor._version for tensor in tensors] + [number for view in trace.views for number in _versions(view)]
