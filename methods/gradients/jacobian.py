"""Jacobian matching: Srinivas and Fleuret, "Knowledge Transfer with Jacobian Matching" (2018, arXiv 1803.00443);
Czarnecki, Osindero, Jaderberg, Świrszcz and Pascanu, "Sobolev Training for Neural Networks" (2017, arXiv 1706.04859);
Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017, arXiv 1612.03928), its gradient-based attention."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import others
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs
from kdbench.refusal import Refusal

Output = Literal["log_probability", "logit"]


@METHODS.register("jacobian")
class Jacobian(Method):
    """Matches how the networks' answers change with every pixel of the image.

        L = ce_weight · CE + weight · ‖J_s/‖J_s‖ − J_t/‖J_t‖‖², J = ∂f_y(x)/∂x

    The term is summed over pixels and averaged over samples. f_y is one output, because the whole Jacobian would cost
    one backward pass per class. The gradients of both networks are divided by their L2 norm, as in Jacobian matching,
    so the term is between 0 and 4 and its default weight is 1; ``normalise: false`` compares them as they are.

    - ``of`` selects y. "label" is the right class, as in gradient-based attention (where J is the gradient of
      cross-entropy: ours with the opposite sign, see below). "teacher" is the teacher's most likely class; no label is
      read. "sampled" is a draw y ~ p_t: on average it matches the gradients of all classes, weighted by their
      probability.
    - ``output`` is log p(y), the choice of the paper on attention and natural in distillation, or the logit itself.

    Choices of ours: the default output, the weight, and to match nothing else. The papers match answers as well, as
    "jacobian+kd" does.

    A student in training mode normalises with its batch's statistics, so its answer to one image depends weakly on all
    others. J is the gradient of the sum of the batch's outputs. For "log_probability" it is that of the log-odds
    log p/(1 − p), times 1 − p of each image unless normalised. Without batch statistics this is exactly the gradient of
    log p; with them the directions differ slightly (cosine above 0.97 in a small trained network).
    """

    source = "gradients"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        of: Literal["label", "teacher", "sampled"] = "label",
        output: Output = "log_probability",
        normalise: bool = True,
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if any(isinstance(module, nn.Hardsigmoid) for module in student.modules()):
            raise Refusal("jacobian: torch must know the student's second derivatives, got a student with Hardsigmoid")
        self.of = of
        self.output = output
        self.normalise = normalise
        self.weight = weight

    def needs(self) -> Needs:
        return Needs(labels=self.of == "label", live_teacher=True, input_grad=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        classes = self._classes(teacher.logits.detach(), batch)
        theirs = input_gradient(self.output, teacher.logits, classes, batch.images, self.normalise).detach()
        mine = input_gradient(self.output, student.logits, classes, batch.images, self.normalise, create_graph=True)
        return {"jacobian": self.weight * (mine - theirs).square().sum(1).mean()}

    def _classes(self, logits: Tensor, batch: Batch) -> Tensor:
        match self.of:
            case "label":
                return batch.labels
            case "teacher":
                return logits.argmax(1)
            case "sampled":
                return drawn(logits.softmax(1), batch.generator)


def input_gradient(
    output: Output, logits: Tensor, classes: Tensor, images: Tensor, normalise: bool, create_graph: bool = False
) -> Tensor:
    """(B, pixels): the gradient of one output of each sample by its image."""
    value = logits.gather(1, classes[:, None]).squeeze(1)
    if output == "log_probability":
        # ∂ log p = (1 − p) ∂ log p/(1 − p). Where a network is certain of the class, 1 − p of a softmax is only
        # rounding, and so would be the whole gradient.
        value = value - others(logits, classes).logsumexp(1)
    (gradient,) = torch.autograd.grad(value.sum(), images, create_graph=create_graph)
    gradient = gradient.flatten(1)
    if normalise:
        # A gradient of zero, as for a head that starts from zero, has no direction: nothing flows back through it.
        return F.normalize(torch.where(gradient.detach().any(1, keepdim=True), gradient, gradient.detach()), dim=1)
    return gradient if output == "logit" else torch.sigmoid(-value)[:, None] * gradient


def drawn(p: Tensor, generator: Generator) -> Tensor:
    """One class for each sample, drawn by its probabilities."""
    waits = torch.empty_like(p).exponential_(generator=generator)  # over p: waits at rates p, the first is y ~ p
    return (p / waits).argmax(1)
