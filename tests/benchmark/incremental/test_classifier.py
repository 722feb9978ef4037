"""A classifier whose classes become more."""

import torch
import torch.nn.functional as F

from kdbench.benchmark import networks
from kdbench.benchmark.incremental.classifier import align, balanced, take_over
from kdbench.methods.chain import Chain

IMAGES = torch.rand(3, 1, 8, 8)


def chain(classes: int) -> Chain:
    return networks.build("resnet8x0.25", classes, (1, 8, 8)).eval()


def test_what_was_known_is_answered_as_before_with_more_classes_and_with_fewer() -> None:
    before, drawn = chain(4), chain(6)
    own = drawn.classifier.weight[4:].clone()
    grown = take_over(drawn, before.state_dict())
    torch.testing.assert_close(grown(IMAGES)[:, :4], before(IMAGES))
    assert torch.equal(grown.classifier.weight[4:], own)
    torch.testing.assert_close(take_over(chain(2), before.state_dict())(IMAGES), before(IMAGES)[:, :2])


def test_a_full_network_answers_for_the_classes_seen_alone_and_keeps_its_keys() -> None:
    whole = chain(6)
    heard = whole.answering(4)
    assert heard.classes == 4
    assert torch.equal(heard(IMAGES), whole(IMAGES)[:, :4])
    assert list(heard.state_dict()) == list(whole.state_dict())


def test_alignment_makes_new_weights_as_long_as_old_ones_and_leaves_those() -> None:
    classifier = torch.nn.Linear(2, 4)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 2.0]]))
    align(classifier, old=2, seen=4)
    expected = [[3.0, 4.0], [0.0, 1.0], [3.0, 4.0], [0.0, 1.0]]  # mean lengths 3 and 6
    torch.testing.assert_close(classifier.weight.tolist(), expected)


def test_balanced_classes_count_as_often_as_there_are_images() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    logits = torch.randn(4, 2)
    p = logits.exp() * torch.tensor([1.0, 3.0])
    expected = -(p / p.sum(1, keepdim=True)).log().gather(1, labels[:, None]).mean()
    torch.testing.assert_close(balanced(labels, 2, logits.device)(logits, labels), expected)


def test_a_class_without_images_is_left_out_and_gets_no_gradient() -> None:
    labels = torch.tensor([2, 3, 3, 2])
    logits = torch.randn(4, 4, requires_grad=True)
    loss = balanced(labels, 4, logits.device)(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, 2:], labels - 2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :2].any() and gradient[:, 2:].all()
