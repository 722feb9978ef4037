"""Normalised KD: no golden numbers exist, so it is held against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdbench.methods.logits.nkd import normalised


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_terms_follow_the_definition(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 1, 3, 0])
    target = rest = 0.0
    for row, answer, label in zip(s.tolist(), t.tolist(), labels.tolist(), strict=True):
        mine, theirs = ([math.exp(z) for z in logits] for logits in (row, answer))
        target -= theirs[label] / sum(theirs) * math.log(mine[label] / sum(mine))
        mine, theirs = ([math.exp(z / temperature) for z in logits] for logits in (row, answer))
        for c in set(range(5)) - {label}:
            share = theirs[c] / (sum(theirs) - theirs[label])
            rest -= temperature**2 * share * math.log(mine[c] / (sum(mine) - mine[label]))
    got = normalised(s, t, labels, temperature)
    assert [term.item() for term in got] == pytest.approx([target / 6, rest / 6], rel=1e-12)


def test_the_other_classes_do_not_see_the_labelled_one() -> None:
    s, t = torch.randn(2, 6, 5, dtype=torch.float64)
    s.requires_grad_()
    labels = torch.tensor([0, 4, 2, 1, 3, 0])
    labelled = F.one_hot(labels, 5).bool()
    _, rest = normalised(s, t, labels, 2.0)
    rest.backward()
    assert not s.grad[labelled].any() and (s.grad[~labelled] != 0).all()


def test_a_teacher_that_is_sure_and_right_gives_cross_entropy() -> None:
    s, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 0])
    target, _ = normalised(s, 100.0 * F.one_hot(labels, 5), labels, 1.0)
    torch.testing.assert_close(target, F.cross_entropy(s, labels))
