"""The Fisher information, in closed form and by differentiation, and the KL divergence that it is the heart of."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kdbench.methods.gradients.fisher import (
    classifier_diagonal,
    classifier_form,
    diagonal_form,
    logits_diagonal,
    logits_form,
    matrix_form,
    mean_trace,
    prediction_information,
    tail_diagonal,
)

CLASSES, WIDTH = 5, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def classifier() -> Tensor:
    return normal(CLASSES, WIDTH, seed=1)


@pytest.fixture
def embedding() -> Tensor:
    return normal(6, WIDTH, seed=2) / 2


@pytest.fixture
def p(embedding: Tensor, classifier: Tensor) -> Tensor:
    return (embedding @ classifier.T).softmax(1)


def fisher_by_autograd(z: Tensor, classifier: Tensor) -> Tensor:
    """E_{y~p}[∇log p(y) ∇log p(y)ᵀ] about one sample's z, from nothing but its definition."""
    log_p = (classifier @ z.requires_grad_()).log_softmax(0)
    total = torch.zeros(len(z), len(z), dtype=z.dtype)
    for value in log_p:
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
        total += value.detach().exp() * torch.outer(gradient, gradient)
    return total


def test_closed_forms_are_the_expectation_of_squared_gradients(
    embedding: Tensor, classifier: Tensor, p: Tensor
) -> None:
    about_features = torch.stack([fisher_by_autograd(row.clone(), classifier) for row in embedding])
    torch.testing.assert_close(classifier_diagonal(p, classifier), about_features.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(classifier.T @ prediction_information(p) @ classifier, about_features.sum(0))

    logits, identity = embedding @ classifier.T, torch.eye(CLASSES, dtype=torch.float64)
    about_logits = torch.stack([fisher_by_autograd(row.clone(), identity) for row in logits])
    torch.testing.assert_close(logits_diagonal(p), about_logits.diagonal(dim1=1, dim2=2))
    other = normal(*logits.shape, seed=3)
    expected = torch.stack(
        [matrix_form(s[None], t[None], f) for s, t, f in zip(other, logits, about_logits, strict=True)]
    )
    torch.testing.assert_close(logits_form(other, logits, p), expected.mean())


def test_forms_of_one_matrix_agree(embedding: Tensor, classifier: Tensor) -> None:
    other = normal(*embedding.shape, seed=3)
    matrix = classifier.T @ classifier
    torch.testing.assert_close(
        classifier_form(other, embedding, classifier), matrix_form(other, embedding, classifier.T @ classifier)
    )
    weights = matrix.diagonal()
    torch.testing.assert_close(diagonal_form(other, embedding, weights), matrix_form(other, embedding, weights.diag()))


@pytest.mark.parametrize("of", ["logits", "features"])
def test_the_full_form_is_the_kl_divergence_to_second_order(
    of: str, embedding: Tensor, classifier: Tensor, p: Tensor
) -> None:
    """What is left over is of third order: it shrinks a thousandfold when the difference shrinks tenfold."""

    def off(size: float) -> float:
        if of == "logits":
            logits = embedding @ classifier.T
            student = logits + size * normal(*logits.shape, seed=4)
            form, answer = logits_form(student, logits, p), student
        else:
            features = embedding + size * normal(*embedding.shape, seed=4)
            matrices = [classifier.T @ prediction_information(row[None]) @ classifier for row in p]
            rows = zip(features, embedding, matrices, strict=True)
            form = torch.stack([matrix_form(s[None], t[None], m) for s, t, m in rows]).mean()
            answer = features @ classifier.T
        kl = F.kl_div(answer.log_softmax(1), p, reduction="batchmean")
        assert form.item() == pytest.approx(kl.item(), rel=size * 10)
        return abs((form - kl).item())

    assert off(1e-2) / off(1e-3) == pytest.approx(1000, rel=0.2)


def test_a_sure_teachers_weights_are_no_rounding_noise(classifier: Tensor) -> None:
    logits = torch.tensor([[18.0, 0.0, 1.0, -1.0, 2.0]], dtype=torch.float64)
    exact = classifier_diagonal(logits.softmax(1), classifier)
    assert exact.max() < 1e-6
    coarse = classifier_diagonal(logits.float().softmax(1), classifier.float())
    torch.testing.assert_close(coarse.double(), exact, rtol=1e-4, atol=0)


def test_a_teacher_that_is_sure_of_everything_teaches_nothing() -> None:
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    student = torch.full((2, 2), 1e4, requires_grad=True)
    loss = diagonal_form(student, torch.zeros(2, 2), logits_diagonal(p)) / mean_trace(logits_diagonal(p))
    loss.backward()
    assert loss == 0 and student.grad is not None and not student.grad.any()


def test_all_classes_through_a_linear_tail_give_the_closed_form(
    embedding: Tensor, classifier: Tensor, p: Tensor
) -> None:
    exact = tail_diagonal(lambda z: z @ classifier.T, embedding, 0, Generator())
    torch.testing.assert_close(exact, classifier_diagonal(p, classifier))


def test_draws_are_right_in_the_mean_and_more_of_them_spread_less(classifier: Tensor) -> None:
    many = 4000

    def tail(z: Tensor) -> Tensor:
        return z.flatten(1).tanh() @ classifier.T / 2

    feature = normal(1, WIDTH, 1, 1, seed=5)
    (exact,) = tail_diagonal(tail, feature, 0, Generator())
    repeated, generator = feature.expand(many, -1, -1, -1), Generator().manual_seed(0)
    one, four = (tail_diagonal(tail, repeated, samples, generator) for samples in (1, 4))
    for estimates in (one, four):
        standard_error = estimates.std(0) / many**0.5
        assert ((estimates.mean(0) - exact).abs() < 4 * standard_error).all()
    torch.testing.assert_close(four.std(0), one.std(0) / 2, rtol=0.1, atol=0)


def test_one_draw_tells_what_a_sure_teacher_weighs(classifier: Tensor) -> None:
    """Of 1000 images that are each sure of their class, the trace of one draw's weights is about the exact one's: draws
    of the class itself would nearly all come to nothing."""
    features = 30 * normal(1000, WIDTH, seed=7)

    def tail(z: Tensor) -> Tensor:
        return z @ classifier.T

    assert tail(features).softmax(1).amax(1).median() > 0.999
    one, exact = (tail_diagonal(tail, features, samples, Generator().manual_seed(0)).sum(1) for samples in (1, 0))
    assert (one > exact / 10).double().mean() > 0.5
