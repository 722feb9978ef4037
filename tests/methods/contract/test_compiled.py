"""A method that allows it to be compiled has the gradient of its eager step then too."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from kdbench import methods
from kdbench.benchmark.networks import build
from kdbench.benchmark.training.compilation import forward
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain
from kdbench.methods.method import METHODS, Batch, Facts, Method
from tests.conftest import CPU

LABELS, BATCH = torch.arange(60) % 10, 20
OURS = sorted(METHODS)  # without those that other tests register


def images(rows: Tensor) -> Tensor:
    return torch.randn(len(rows), 1, 8, 8, generator=Generator().manual_seed(1))


def built(name: str) -> tuple[Chain, Chain, Method]:
    torch.manual_seed(0)
    student, teacher = build("resnet8x0.25", 10, (1, 8, 8)), build("resnet14x0.5", 10, (1, 8, 8))
    teacher.eval().requires_grad_(False)
    facts = Facts(classes=10, labels=LABELS, batch=BATCH, steps=3, epochs=2, images=lambda rows: iter([images(rows)]))
    params = methods.resolve(name, student, teacher, facts)
    return student, teacher, methods.create(name, student, teacher, facts, **params)


def gradients(name: str, engine: Engine) -> list[dict[str, Tensor]]:
    """Of one step in each phase."""
    student, teacher, method = built(name)
    method.prepare()
    step, found = Step(student, method), []
    for phase in (*(phase.name for phase in method.phases), "main"):
        index = torch.arange(BATCH)
        views = tuple(images(index) + number for number in range(len(method.needs().views)))
        batch = Batch(views, LABELS[index], index, torch.tensor(1.0), Generator().manual_seed(3), phase)
        terms = forward(engine, step, LiveTeacher(teacher, method.needs()), BATCH)(batch, True, ())
        torch.stack(list(terms.values())).sum().backward()
        found.append({name: one.grad for name, one in step.named_parameters() if one.grad is not None})
        step.zero_grad()
    return found


def compilable(name: str) -> bool:
    needs = built(name)[2].needs()
    return needs.compilable and not needs.input_grad


def test_a_method_whose_gradient_needs_what_its_step_changes_is_not_compiled() -> None:
    assert compilable("kd") and not compilable("crd") and not compilable("crd+kd")


def test_the_methods_that_are_never_compiled_are_those_that_the_docs_name() -> None:
    assert {name for name in OURS if not compilable(name)} == {"crd", "kdsvd", "jacobian"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_a_compiled_step_has_the_gradient_of_the_eager_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compilable(name):
        pytest.skip("it is never compiled")
    monkeypatch.setattr(Engine, "compile_options", {"backend": "aot_eager"})  # compiles in seconds
    for eager, compiled in zip(gradients(name, CPU), gradients(name, replace(CPU, compile="on")), strict=True):
        assert eager.keys() == compiled.keys()
        for parameter, gradient in eager.items():
            near = 1e-4 * gradient.abs().max().item() + 1e-7
            torch.testing.assert_close(compiled[parameter], gradient, rtol=1e-3, atol=near)
