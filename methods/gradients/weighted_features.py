"""Features weighted by gradients: Hsu, Smith, Shen, Kira and Jin, "A Closer Look at Knowledge Distillation with
Features, Logits, and Gradients" (2022, arXiv 2203.10163), and two neighbours of its formula."""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.forms import Adapter
from kdbench.methods.gradients.fisher import (
    classifier_diagonal,
    classifier_form,
    diagonal_form,
    matrix_form,
    mean_trace,
    prediction_information,
    tail_diagonal,
)
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, Source
from kdbench.methods.survey import survey
from kdbench.refusal import Refusal


@METHODS.register("weighted_features")
class WeightedFeatures(Method):
    """Matches a feature of the teacher; each coordinate's weight is the sensitivity of the teacher's prediction to it.

        L = ce_weight · CE + weight · ½ Σ_k W_k (P(h_s)_k − h_t,k)²

    h is the embedding, A the teacher's classifier, p = softmax(A h_t + b), and P a linear projector. ``weighting``
    selects W:

    - "plain": W = 1, feature matching. Tables give its source as features.
    - "fisher": W = E_{y~p}[(∂log p(y)/∂h_k)²], the diagonal of the Fisher information of p about h, exactly:
      diag(Aᵀ(diag p − p pᵀ)A).
    - "classifier": the form of AᵀA, which is ½ ‖A P(h_s) − A h_t‖². The authors' work on incremental learning has the
      mean squared error of these with weight 0.1. Here that is weight 0.2, normalised by "classes".
    - "full": the form of scale · F + damping · I. F is the Fisher information averaged over the training set, computed
      once before the first step. This is elastic feature consolidation, with scale 10 and damping 0.1. The published
      form is neither halved nor normalised: weight 2 and ``normalise: false``. Where classes arrive task by task, it
      averages over the images of the finished task; ours averages over those of the new one.

    ``depth`` moves h to one of the teacher's stages, and to the student's stage that is aligned with it. There W comes
    from differentiating the teacher's tail: all classes at once under random signs, ``samples`` times for each image,
    which is unbiased. With 0 samples, the expectation is exact and takes one pass per class.

    Choices of ours, which the paper's text leaves open:

    - ``normalise`` divides the sum by the batch mean of the trace of the weights, which makes it a weighted mean over
      coordinates. It does not grow with the width, and it relates the images of a batch. "classes" divides by the
      number of classes that the teacher knows. Without ``normalise``, the loss has the KL's own scale.
    - The projector has no bias. Where the two forms agree there is no projector, unless ``projector`` is "always". In a
      study of widths, the student as wide as the teacher would otherwise be the only one without.
    - The weight is a guess: short runs on the digits are harmed at ten times it.
    """

    source = "gradients"
    matrix: Tensor  # of the "full" weighting

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        weighting: Literal["plain", "fisher", "classifier", "full"] = "fisher",
        depth: int | None = None,
        samples: int = 1,
        scale: float = 10.0,
        damping: float = 0.1,
        normalise: bool | Literal["classes"] = True,
        projector: Literal["differing", "always"] = "differing",
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        self.facts = facts
        self.weighting, self.depth, self.samples = weighting, depth, samples
        self.scale, self.damping, self.normalise, self.weight = scale, damping, normalise, weight
        if samples < 0:
            raise Refusal(f"weighted_features: samples must be 0 (all classes) or more, got {samples}")
        if scale < 0 or damping < 0 or scale + damping == 0:
            raise Refusal(
                f"weighted_features: scale and damping must not be negative, nor both 0, got {scale} and {damping}"
            )
        if depth is not None and weighting in ("classifier", "full"):
            raise Refusal(
                f"weighted_features: weighting must be 'plain' or 'fisher' at an inner depth, got '{weighting}'"
            )
        if depth is None and weighting != "plain" and not isinstance(teacher.classifier, nn.Linear):
            raise Refusal(
                f"weighted_features: weighting must be 'plain', or the teacher's last link linear, got '{weighting}' "
                f"and {type(teacher.classifier).__name__}; at depth {len(teacher) - 1} 'fisher' is estimated"
            )

        self.mine, self.theirs = _partners(student, teacher, depth)
        source, target = student.form(self.mine), teacher.form(self.theirs)
        alike = source == target and projector == "differing"
        self.project = nn.Identity() if alike else Adapter(source, target)
        if weighting == "full":
            self.register_buffer("matrix", damping * torch.eye(target.channels))

    @classmethod
    def draws_on(cls, params: Mapping[str, Any]) -> Source:
        return "features" if params.get("weighting") == "plain" else cls.source  # "plain" uses no gradient

    def prepare(self) -> None:
        if self.weighting == "full":
            traces = survey(self.teacher, self.facts, torch.arange(self.facts.size))
            spread = reduce(torch.add, (prediction_information(trace.logits.softmax(1)) for trace in traces))
            information = self._classifier.T @ (spread / self.facts.size) @ self._classifier
            self.matrix.copy_(self.scale * information).diagonal().add_(self.damping)

    def needs(self) -> Needs:
        fisher, inner = self.weighting == "fisher", self.depth is not None
        return Needs(
            student=frozenset({self.mine} if inner else ()),
            teacher=frozenset({self.theirs} if inner else ()),
            teacher_embedding=not inner,
            live_teacher=fisher and inner,
            whole_batch=fisher and self.normalise is True,
        )

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        if self.depth is None:
            mine, theirs = self.project(student.embedding), teacher.embedding
        else:
            mine, theirs = self.project(student[self.mine]), teacher[self.theirs]
        match self.weighting:
            case "plain":
                diagonal = torch.ones_like(theirs)
                value = diagonal_form(mine, theirs, diagonal)
            case "fisher":
                diagonal = self._fisher(theirs, teacher.logits, batch)
                value = diagonal_form(mine, theirs, diagonal)
            case "classifier":
                diagonal = self._classifier.square().sum(0, keepdim=True)
                value = classifier_form(mine, theirs, self._classifier)
            case "full":
                diagonal = self.matrix.diagonal()[None]
                value = matrix_form(mine, theirs, self.matrix)
        match self.normalise:
            case True:
                value = value / mean_trace(diagonal)
            case "classes":
                value = value / teacher.logits.shape[1]
        return {"features": self.weight * value}

    def _fisher(self, feature: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        if self.depth is None:
            return classifier_diagonal(logits.softmax(1), self._classifier)
        return tail_diagonal(partial(self.teacher.resume, after=self.depth), feature, self.samples, batch.generator)

    @property
    def _classifier(self) -> Tensor:
        weight = self.teacher.classifier.weight
        assert isinstance(weight, Tensor)
        return weight.detach()


def _partners(student: Chain, teacher: Chain, depth: int | None) -> tuple[int, int]:
    """The depths of student and teacher: the embeddings, or a teacher's stage and its partner."""
    embeddings = len(student) - 1, len(teacher) - 1
    if depth in (None, embeddings[1]):
        return embeddings
    pairs = {theirs: mine for mine, theirs in aligned(student, teacher)}
    if depth not in pairs:
        known = ", ".join(map(str, sorted({*pairs, embeddings[1]})))
        raise Refusal(f"weighted_features: depth must be one of the teacher's with a partner ({known}), got {depth}")
    return pairs[depth], depth
