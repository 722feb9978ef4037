"""DIST: Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher" (2022), arXiv 2205.10536."""

from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import silent_where_blank
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above


@METHODS.register("dist")
class DIST(Method):
    """The student's predictions must correlate with the teacher's, but need not be equal to them.

        L = ce_weight · CE + beta · L_inter + gamma · L_intra

    L_inter and L_intra are T² · (1 − Pearson) of softmax(z/T).

    - ``inter``: along the rows, how each sample's classes relate; the mean over samples.
    - ``intra``: along the columns, how the samples of the batch relate in each class; the mean over classes.

    The field uses weights of 2 and T = 4 on CIFAR-100. On ImageNet the weights are the same and T is 1.
    """

    source = "logits"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        above("dist", 0, temperature=temperature)
        self.beta, self.gamma = beta, gamma
        self.temperature = temperature

    def needs(self) -> Needs:
        return Needs(whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        inter, intra = uncorrelated(silent_where_blank(student.logits), teacher.logits, self.temperature)
        return {"inter": self.beta * inter, "intra": self.gamma * intra}


def uncorrelated(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T² · (1 − Pearson) of the softened predictions: along the classes, and along the batch."""
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    inter, intra = (temperature**2 * (1 - pearson(p, q, dim).mean()) for dim in (1, 0))
    return inter, intra


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Correlation coefficients along ``dim``."""
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    # Added, as in the authors' code. A floor would differ where a class is nearly absent from the batch.
    return (a * b).sum(dim) / (a.norm(dim=dim) * b.norm(dim=dim) + 1e-8)
