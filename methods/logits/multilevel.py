"""Multi-level logit distillation (MLKD): Jin, Wang and Lin, "Multi-Level Logit Distillation" (2023), CVPR."""

import torch
from torch import Tensor

from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import gram_distance, softened_kl
from kdbench.methods.method import METHODS, Batch, Facts, Method, Needs, above


@METHODS.register("multilevel")
class MultiLevel(Method):
    """Aligns predictions at three levels and five temperatures, on two views of every image.

        L = ce_weight · (CE + CE of the strong view) + weight · (L_instance + L_batch + L_class)

    Here p = softmax(z/T), and T is 2, 3, ``temperature``, 5 and 6.

    - ``instance``: T² · KL of each sample's prediction, summed over the temperatures and both views.
    - ``batch``: squared Frobenius distance of p·pᵀ (B × B: how samples relate), / B, summed over the temperatures.
    - ``class``: the same for pᵀ·p (C × C: how classes relate), / C.
    - ``strong_task``: cross-entropy on the strong view, with the loop's weight. It carries no teacher knowledge.

    The numbers published for this method come from the authors' code, so this method computes what their code computes.
    Their code differs from their text in three ways:

    - In the text, a sample (or class) whose confidence is above the batch's median is left out. The code multiplies the
      finished mean by the share of those kept, about one half. At the instance level it does so only on the first view.
    - For the first T and the last, the code gives the strong view's instance term the logits of the first view.
    - The batch and class levels use only the first view.

    The strong view uses two of RandAugment's operations, each with its own strength, and Cutout, as the authors' does.
    No other method gets it, so a ranking needs a note. So do published figures. The authors' configurations for six
    pairs have 240 epochs at half the usual rate (0.025). Those for the five pairs with MobileNetV2 or ShuffleNet
    students have 480 epochs at 0.01, or 960 for resnet32x4 to the ShuffleNets. A later paper's have 480 and 960 epochs.

    Choices of ours: the strong view starts from the first view's crop and flip; the authors' has a separate crop and
    flip. Its operations are torchvision's. They also lighten and sharpen, where the authors' only darken and blur. They
    shift by up to 45 %, where the authors' stop at 30 %.
    """

    source = "logits"
    raw_terms = frozenset({"batch", "class", "strong_task"})  # left raw by the code of logit standardisation

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
