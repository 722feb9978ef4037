"""Feature-only distillation: Cooper, Chen, Dwivedy and Gurari, "Logit-Based Losses Limit the Effectiveness of Feature
Knowledge Distillation" (2025, arXiv 2511.14981)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.features.layers import PAIRS, layers, standard
from kdbench.methods.features.quality import K0, best, qualities
from kdbench.methods.forms import Form, as_map, resized, smaller
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs
from kdbench.refusal import Refusal

Numbers = tuple[int, ...] | Literal["standard"]
NumbersByQuality = tuple[int, ...] | Literal["standard", "quality"]


@METHODS.register("feature_only")
class FeatureOnly(Method):
    """The backbone learns only from the teacher's features; labels teach only the layers behind them.

        L = weight · mean over l of ‖P_l(F^S_l) − F^T_t(l)‖² / elements + ce_weight · CE(student)

    P_l is a 1×1 convolution without bias from the student's channels to the teacher's. It covers all positions, and the
    tokens before the grid (a class token) if both networks have equally many. The larger of the two maps is averaged to
    the smaller one's size, the student's before it is projected. CE's gradient stops at the last distilled student
    depth. The teacher's logits are not used. (The paper's code stores a teacher's tokens in one order and reads them in
    another. Where it runs the teacher again, as its configurations for the ViTs do not, it projects as we do.)

    Depths are the paper's layer numbers (see ``methods/features/layers.py``): ``teacher_depths: [12, 13, 14, 15]``. By
    default the teacher's are the four of the highest knowledge quality Q on the training set, t(l) in order, as
    ``kdbench quality`` prints them. ``samples``, ``class_samples`` and ``k0`` are the settings of that measurement. The
    student's are the paper's for its four students. Networks with fewer layers have fewer pairs.

    Choices of ours:

    - The paper never released its selection by quality. ``methods/features/quality.py`` has the formula,
      Q = S + √(I·E), and says where ours differs from the paper's code.
    - The rule that gives the student's depths for any network (``standard``) is ours.
    - Tokens of different numbers are averaged on their grid, the class token apart. The authors' code averages along
      the row of all tokens. On the paper's own pair the numbers are equal.

    If the teacher is an earlier state of the student, the two are compared layer by layer and, at equal depths, without
    P. Nothing trains the backbone then: it starts where the teacher is, and labels do not reach it. Where classes
    arrive task by task, this is a frozen backbone, and ``feature_with_ce`` is the method that learns.
    """

    source = "features"

    def __init__(
        self,
        student: Chain,
        teacher: Chain,
        facts: Facts,
        *,
        student_depths: Numbers = "standard",
        teacher_depths: NumbersByQuality = "quality",
        k0: float = K0,
        samples: int = 5000,
        class_samples: int = 500,
        weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, facts, ce_weight=ce_weight)
        if k0 <= 1 or samples < 1 or class_samples < 1:
            raise Refusal(
                "feature_only: k0 must be above 1, and samples and class_samples at least 1,"
                f" got {k0}, {samples} and {class_samples}"
            )
        mine, theirs = numbers(student, student_depths, teacher, teacher_depths)
        self.student_depths = _depths(student, mine, "student_depths")
        self.teacher_depths = _depths(teacher, theirs, "teacher_depths")
        if len(mine) != len(theirs):
            raise Refusal(
                "feature_only: student_depths and teacher_depths must have the same length,"
                f" got {len(mine)} and {len(theirs)}"
            )
        forms = [(student.form(s), teacher.form(t)) for s, t in self.pairs]
        self.project = nn.ModuleList(
            nn.Identity() if facts.continued and mine == theirs else nn.Conv1d(s.channels, t.channels, 1, bias=False)
            for (mine, theirs), (s, t) in zip(self.pairs, forms, strict=True)
        )
        self.forms = forms
        self.weight = weight

    @classmethod
    def resolve(cls, student: Chain, teacher: Chain, facts: Facts, **params: Any) -> dict[str, Any]:
        asked = params.get("student_depths", "standard"), params.get("teacher_depths", "quality")
        mine, theirs = numbers(student, asked[0], teacher, asked[1])
        if asked[1] == "quality" and facts.continued:
            theirs = mine
        elif asked[1] == "quality":
            settings = {key: params[key] for key in ("k0", "samples", "class_samples") if key in params}
            theirs = best(qualities(teacher, facts, **settings), len(theirs))
        return params | {"student_depths": mine, "teacher_depths": theirs}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(zip(self.student_depths, self.teacher_depths, strict=True))

    def needs(self) -> Needs:
        return Needs(
            student=frozenset(self.student_depths),
            teacher=frozenset(self.teacher_depths),
            cut=self.student_depths[-1],
        )

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        distances = [
            distance(student[s], teacher[t], *forms, project)
            for (s, t), forms, project in zip(self.pairs, self.forms, self.project, strict=True)
        ]
        return {"feature": self.weight * torch.stack(distances).mean()}


@METHODS.register("feature_with_ce")
class FeatureWithCE(FeatureOnly):
    """The control: like feature_only, but CE trains the backbone too. ``feature_with_ce+kd`` adds KD."""

    def needs(self) -> Needs:
        return replace(super().needs(), cut=None)


def distance(student: Tensor, teacher: Tensor, mine: Form, theirs: Form, project: nn.Module) -> Tensor:
    """‖P(F^S) − F^T‖² / elements, at the smaller of the two sizes."""
    size, prefix = smaller(mine, theirs), 0 < mine.prefix == theirs.prefix
    return F.mse_loss(project(_line(student, mine, size, prefix)), _line(teacher, theirs, size, prefix))


def _line(value: Tensor, form: Form, size: tuple[int, int], prefix: bool) -> Tensor:
    """(B, C, positions)."""
    grid = resized(as_map(value, form), size).flatten(2)
    return torch.cat([value[:, : form.prefix].transpose(1, 2), grid], 2) if prefix else grid


def numbers(
    student: Chain, student_depths: Numbers, teacher: Chain, teacher_depths: NumbersByQuality
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layers of both networks; the teacher's last ones are placeholders where quality has yet to choose."""
    named = [len(chosen) for chosen in (student_depths, teacher_depths) if not isinstance(chosen, str)]
    count = named[0] if named else min(PAIRS, len(layers(student)), len(layers(teacher)))
    mine = standard(student, count) if isinstance(student_depths, str) else tuple(student_depths)
    if teacher_depths == "quality":
        return mine, tuple(range(len(layers(teacher))))[-count:]
    return mine, standard(teacher, count) if isinstance(teacher_depths, str) else tuple(teacher_depths)


def _depths(chain: Chain, chosen: Sequence[int], name: str) -> tuple[int, ...]:
    ends = layers(chain)
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < len(ends) or any(a >= b for a, b in pairwise(chosen)):
        raise Refusal(
            f"feature_only: {name} must be layers from 0 to {len(ends) - 1} in rising order, got {list(chosen)}"
        )
    return tuple(ends[number] for number in chosen)
