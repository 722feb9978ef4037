"""Vanilla knowledge distillation: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015)."""

from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method, above


@METHODS.register("kd")
class KD(Method):
    """The student learns the teacher's softened predictions as well as the labels.

        L = ce_weight · CE + weight · T² · KL(softmax(z_t/T) ‖ softmax(z_s/T))

    The weights and the temperature are those of the field's two reference codebases.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        temperature: float = 4.0,
        weight: float = 0.9,
        ce_weight: float = 0.1,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        above("kd", 0, temperature=temperature)
        self.temperature = temperature
        self.weight = weight

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"kd": self.weight * softened_kl(student.logits, teacher.logits, self.temperature)}
