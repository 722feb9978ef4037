"""Contrastive representation distillation: Tian, Krishnan and Isola (ICLR 2020, arXiv 1910.10699)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above
from kdbench.refusal import Refusal

EPSILON = 1e-7


def contrast(positive: Tensor, negative: Tensor, chosen: Tensor, noise: float) -> Tensor:
    """−log h(positive) − Σ log(1 − h(negative)) over the chosen negatives, h(s) = s / (s + noise); averaged over the
    batch.

    ``positive`` has one score per image. ``negative`` and ``chosen`` have one row per image.
    """
    true = (positive / (positive + noise + EPSILON)).log()
    false = (noise / (negative + noise + EPSILON)).log()
    return -(true + (chosen * false).sum(1)).mean()


def draw(labels: Tensor, known: Tensor, count: int, reach: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """``reach`` candidates for all rows, and for each row a mask of the first ``count`` of them that are of another
    class."""
    candidates = torch.randperm(len(known), generator=generator, device=known.device)[:reach]
    foreign = known[candidates] != labels[:, None]
    return candidates, foreign & (foreign.cumsum(1) <= count)


class Memory(nn.Module):
    """The latest outputs of one network's head for every training image, to contrast the other network's with."""

    bank: Tensor
    scale: Tensor

    def __init__(self, size: int, width: int, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        self.register_buffer("bank", (2 * torch.rand(size, width) - 1) * (3 / width) ** 0.5)
        self.register_buffer("scale", torch.zeros(()))  # not yet known

    def contrast(self, anchors: Tensor, index: Tensor, candidates: Tensor, chosen: Tensor, count: int) -> Tensor:
        """The loss of the other network's ``anchors``, each with ``count`` chosen negatives."""
        positive = ((anchors * self.bank[index]).sum(1) / self.temperature).exp()
        negative = (anchors @ self.bank[candidates].T / self.temperature).exp()
        with torch.no_grad():
            size = len(self.bank)
            mean = (positive.sum() + (chosen * negative).sum()) / (len(anchors) * (count + 1))
            scale = torch.where(self.scale > 0, self.scale, mean * size)
            self.scale.copy_(scale)
        return contrast(positive / scale, negative / scale, chosen, count / size)

    @torch.no_grad()
    def update(self, index: Tensor, answers: Tensor) -> None:
        moved = self.momentum * self.bank[index] + (1 - self.momentum) * answers
        self.bank[index] = F.normalize(moved, dim=1)


@METHODS.register("crd")
class CRD(Method):
    """A critic learns to tell whether the two networks' outputs belong to the same image or to two images.

        L = ce_weight · CE + weight · (L_s + L_t)

    In L_s, the student's embedding of an image passes a linear head and is scaled to unit length. It is contrasted with
    the teacher's outputs in a memory bank: those for the same image and for ``negatives`` images of other classes. The
    paper's critic is h(s) = s / (s + K/N) with s = exp(⟨mine, theirs⟩ / temperature) / Z. The loss is its
    noise-contrastive estimation. L_t is the same with the roles exchanged. Both heads are trained.

    As in the reference code:

    - Z is the mean score of the first batch, times N, and stays constant.
    - The memory bank starts from uniform noise. After a batch has been scored, the bank moves towards its outputs by
      1 − momentum.
    - The critic's Σ runs over the negatives without a weight.

    Weight 0.8, width 128, temperature 0.07, K = 16384 and momentum 0.5 are those of the field's reference codebases for
    CIFAR. If all classes except an image's own hold fewer than K images, K is their number.

    Choice of ours: how negatives are drawn. The reference draws a separate subset for each image, uniformly and without
    replacement. Here the batch shares one random order of the training set, and each image takes the first K in it that
    are of another class. For each single image this is the same distribution, so the expected loss and gradient of a
    step are the reference's. But the images of a batch share negatives, so a step's noise is somewhat greater. About K
    memory rows are gathered instead of B · K.
    """

    source = "relations"
    labels: Tensor

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weight: float = 0.8,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if negatives < 1 or width < 1:
            raise Refusal(f"crd: negatives and width must be at least 1, got {negatives} and {width}")
        above("crd", 0, temperature=temperature)
        if not 0 <= momentum < 1:
            raise Refusal(f"crd: momentum must be at least 0 and below 1, got {momentum}")
        largest = int(facts.labels.bincount().max())
        if largest == facts.size:
            raise Refusal("crd: the training set must have images of two classes, got one: there are no negatives")
        self.weight = weight
        self.negatives = min(negatives, facts.size - largest)
        self.reach = min(self.negatives + largest, facts.size)  # this many hold enough for every class
        self.mine = nn.Linear(student.embedding_width, width)
        self.theirs = nn.Linear(teacher.embedding_width, width)
        self.of_student, self.of_teacher = (Memory(facts.size, width, temperature, momentum) for _ in range(2))
        self.register_buffer("labels", facts.labels.to(self.of_student.bank.device), persistent=False)

    def needs(self) -> Needs:
        # A compiled backward pass would read the banks as update() has left them.
        return Needs(teacher_embedding=True, labels=True, whole_batch=True, compilable=False)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        mine = F.normalize(self.mine(student.embedding), dim=1)
        theirs = F.normalize(self.theirs(teacher.embedding), dim=1)
        drawn = draw(batch.labels, self.labels, self.negatives, self.reach, batch.generator)
        terms = {
            "student": self.weight * self.of_teacher.contrast(mine, batch.index, *drawn, self.negatives),
            "teacher": self.weight * self.of_student.contrast(theirs, batch.index, *drawn, self.negatives),
        }
        self.of_student.update(batch.index, mine)
        self.of_teacher.update(batch.index, theirs)
        return terms
