"""Cross-entropy only: the student without a teacher. Teachers are trained in this way."""

from torch import Tensor

from kdbench.methods.chain import Trace
from kdbench.methods.method import METHODS, Batch, Method


@METHODS.register("ce")
class CrossEntropy(Method):
    """The student learns from the labels only; the loop adds cross-entropy, so there are no other terms."""

    source = "labels"
    taught = False

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {}
