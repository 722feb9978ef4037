"""A method can ask for the same images under a second augmentation."""

import torch
from torch import Tensor

from kdbench.benchmark.data import Dataset
from kdbench.benchmark.data.views import Normalise
from kdbench.benchmark.training.loop import look
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.logits.divergence import softened_kl
from kdbench.methods.method import Batch, Facts, Method, Needs
from tests.conftest import Learn


class TwoViews(Method):
    """Knowledge distillation on both views."""

    source = "logits"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.steps: list[tuple[Trace, Trace, Batch]] = []

    def needs(self) -> Needs:
        return Needs(teacher=frozenset({0}), views=("recipe", "strong"), labels=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        self.steps.append((student, teacher, batch))
        names = ("weak", "strong")
        pairs = zip(names, student.views, teacher.views, strict=True)
        return {name: softened_kl(mine.logits, theirs.logits, 4.0) for name, mine, theirs in pairs}


def test_a_second_view_shows_the_same_images_otherwise(
    student: Chain, teacher: Chain, facts: Facts, digits: Dataset, learn: Learn
) -> None:
    method = TwoViews(student, teacher, facts)
    history = learn(student, teacher, method)
    assert all(history[-1].terms[name] > 0 for name in ("weak", "strong"))

    for mine, theirs, batch in method.steps:
        weak, strong = batch.views
        assert weak.shape == strong.shape == (20, 1, 8, 8)
        assert batch.images is weak and not torch.equal(weak, strong)
        for trace in (mine, theirs):
            assert torch.equal(trace.logits, trace.views[0].logits)
            assert not torch.equal(trace.views[0].logits, trace.views[1].logits)
        assert torch.equal(theirs.views[1][0], strong)  # depth 0 is what the network was shown
        assert torch.equal(batch.labels, digits.train.labels[batch.index])


def test_every_step_of_every_epoch_has_a_strong_view_of_its_own(digits: Dataset) -> None:
    normalise, seen = Normalise(digits, torch.device("cpu")), digits.train.images[:8]
    first = look(normalise, "strong", seen, 0, "main", 1, 0)
    assert torch.equal(first, look(normalise, "strong", seen, 0, "main", 1, 0))
    assert not torch.equal(first, look(normalise, "strong", seen, 0, "main", 1, 1))
    assert not torch.equal(first, look(normalise, "strong", seen, 0, "main", 2, 0))
