"""A step of every method on a fake GPU: torch tracks shapes and devices only. It raises where devices are mixed, and
where a value is read, for which a program would have to wait."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import METHODS, Batch, Facts, Method
from tests.conftest import MakeBatch
from tests.methods.test_conformance import made, phases

# jacobian differentiates inside its losses, and autograd needs a real GPU for that.
NAMES = sorted({*METHODS, "crd+kd"} - {"jacobian"})


class Gpu(FakeTensorMode):
    """Tensors have the shapes and the device that they would have on a GPU, and no values."""

    def copy(self, tensor: Tensor) -> Tensor:
        here = self.from_tensor(tensor.detach())
        with self:
            return here.to("cuda").requires_grad_(tensor.requires_grad)

    def take(self, module: nn.Module) -> None:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                tensors.update({name: self.copy(tensor) for name, tensor in tensors.items() if tensor is not None})

    def step(self, student: Chain, teacher: Chain, method: Method, batch: Batch) -> dict[str, Tensor]:
        """Without the backward pass, which needs a driver."""
        batch = replace(
            batch,
            views=tuple(self.copy(view) for view in batch.views),
            **{name: self.copy(getattr(batch, name)) for name in ("labels", "index", "epoch")},
        )
        for module in (student, teacher, method):
            self.take(module)
        with self:
            return Step(student, method)(batch, LiveTeacher(teacher, method.needs())(batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_keeps_to_the_gpu_and_never_waits_for_it(
    name: str, student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = made(name, student, teacher, facts)
    gpu = Gpu()
    for phase in phases(method):
        terms = gpu.step(student, teacher, method, make_batch(method.needs(), phase))
        assert all(term.is_cuda and term.shape == () for term in terms.values())


class Waiting(Method):
    """Reads a value, as printing it would."""

    source = "logits"

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"waiting": student.logits.sum() * float(teacher.logits.sum())}


class Mixing(Method):
    """Uses a tensor on the CPU."""

    source = "logits"

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"mixing": (student.logits * torch.ones(10)).sum()}


@pytest.mark.parametrize(("method", "error"), [(Waiting, DataDependentOutputException), (Mixing, RuntimeError)])
def test_a_method_that_waits_or_mixes_devices_is_caught(
    method: type[Method],
    error: type[Exception],
    student: Chain,
    teacher: Chain,
    facts: Facts,
    make_batch: MakeBatch,
) -> None:
    with pytest.raises(error):
        Gpu().step(student, teacher, method(student, teacher, facts), make_batch())
