"""Multi-level logit distillation (MLKD): Jin, Wang and Lin, "Multi-Level Logit Distillation" (2023), CVPR."""

import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import gram_distance, softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above


@METHODS.register("multilevel")
class MultiLevel(Method):
    """Predictions aligned at three levels and five temperatures, on two views of every image.

    L = ce_weight · (CE + CE of the strong view) + weight · (L_instance + L_batch + L_class), with p = softmax(z/T)
    and T = 2, 3, ``temperature``, 5 and 6:

    - ``instance``: T² · KL of each sample's prediction, summed over the temperatures and both views.
    - ``batch``: squared Frobenius distance of p·pᵀ (B × B: how samples relate), / B, summed over the temperatures.
    - ``class``: the same of pᵀ·p (C × C: how classes relate), / C.
    - ``strong_task``: cross-entropy on the strong view, with the loop's own weight; without a teacher, no knowledge.

    The numbers published for this method come from the authors' code, so this is what their code computes; in three
    things it is not what their text says. A sample (or class) whose confidence lies above the batch's median was to be
    left out, but the code multiplies the finished mean with the share of those kept, about one half; at the instance
    level on the first view alone. For the first T and the last the code shows the strong view's instance term the first
    view's logits. And the batch and class levels are taken on the first view alone.

    The strong view (two of RandAugment's operations, each of a strength of its own, and Cutout, as the authors have it)
    is something that no other method gets: in a ranking it needs a note. So do published figures: the authors'
    configurations are of 240 epochs at half the usual rate (0.025) for six pairs, and of 480, or 960 for resnet32x4 to
    the ShuffleNets, at 0.01 for the five with MobileNetV2 or ShuffleNet students; a later paper's are of 480 and 960.

    Ours: the strong view begins from the first one's crop and flip, where the authors' has a crop and flip of its own.
    Its operations are torchvision's, which also lighten and sharpen where the authors' only darken and blur, and shift
    by up to 45 % where theirs stop at 30.
    """

    source = "logits"
    raw_terms = frozenset({"batch", "class", "strong_task"})  # not standardised in the code of logit standardisation

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
        above("multilevel", 0, temperature=temperature)
        self.temperature = temperature
        self.weight = weight

    def needs(self) -> Needs:
        return Needs(labels=True, views=("recipe", "strong"), whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        first, strong = ((s.logits, t.logits) for s, t in zip(student.views, teacher.views, strict=True))
        levels = {name: self.weight * value for name, value in multilevel(first, strong, self.temperature).items()}
        return levels | {"strong_task": self.ce_weight * batch.task(student.views[1].logits)}


def multilevel(first: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor], temperature: float) -> dict[str, Tensor]:
    """The three levels, from the student's and the teacher's logits of each view."""
    confidence = first[1].softmax(1)
    samples, classes = not_above_median(confidence.amax(1)), not_above_median(confidence.sum(0))
    instance, between_samples, between_classes = [], [], []
    for t, second in ((2.0, first), (3.0, strong), (temperature, strong), (5.0, strong), (6.0, first)):
        mine, theirs = ((logits / t).softmax(1) for logits in first)
        instance += [samples * softened_kl(*first, t), softened_kl(*second, t)]
        between_samples.append(samples * gram_distance(mine.T, theirs.T) / len(mine))
        between_classes.append(classes * gram_distance(mine, theirs) / mine.shape[1])
    return {
        "instance": torch.stack(instance).sum(),
        "batch": torch.stack(between_samples).sum(),
        "class": torch.stack(between_classes).sum(),
    }


def not_above_median(values: Tensor) -> Tensor:
    """The share of the values that are not above their median."""
    return (values <= values.median()).to(values.dtype).mean()
