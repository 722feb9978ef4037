"""Cross-entropy alone: the student without a teacher, and the way that teachers are made."""

from torch import Tensor

from kdbench.methods.chain import Trace
from kdbench.methods.method import METHODS, Batch, Method


@METHODS.register("ce")
class CrossEntropy(Method):
    """The labels alone; the loop adds cross-entropy, so nothing is left to say here."""

    source = "labels"
    taught = False

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {}
