"""A method that relates images sees all ranks' images, and its gradient is that of the whole batch.

Run as a script, this file is one of the ranks.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdbench.benchmark.networks import build
from kdbench.benchmark.training.step import Step
from kdbench.benchmark.training.teacher import LiveTeacher
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs

RANKS = 2
SIZES = (5, 3)  # of their shares


class Similarity(Method):
    """How alike any two images' embeddings are, for student and teacher; labels and index weigh the pairs."""

    source = "relations"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts) -> None:
        super().__init__(student, teacher, facts)
        self.projector = nn.Linear(student.embedding_width, 5)

    def needs(self) -> Needs:
        three = frozenset({3})
        return Needs(student=three, teacher=three, teacher_embedding=True, labels=True, whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        apart = (batch.index[:, None] - batch.index).abs() + (batch.labels[:, None] != batch.labels)
        mine, theirs = (trace.embedding + trace[3].mean((2, 3)).sum(1, keepdim=True) for trace in (student, teacher))
        alike = [F.normalize(value, dim=1) @ F.normalize(value, dim=1).T for value in (self.projector(mine), theirs)]
        return {"similarity": ((alike[0] - alike[1]) / (1 + apart)).pow(2).mean()}


def gradients(rank: int | None) -> dict[str, Tensor]:
    """Of a step over the whole batch, or, as one of several ranks, over a share of it."""
    torch.manual_seed(0)
    student = build("resnet8x0.25", 10, (1, 8, 8)).double().eval()  # batch norm must not relate images here
    teacher = build("resnet8x0.25", 10, (1, 8, 8)).double()
    labels = torch.randint(10, (8,))
    method = Similarity(student, teacher, Facts(classes=10, labels=labels, batch=8, steps=1, epochs=1)).double()
    images, index = torch.randn(8, 1, 8, 8).double(), torch.randperm(8)
    batch = Batch((images,), labels, index, torch.tensor(1.0), Generator())
    step: nn.Module = Step(student, method)
    if rank is not None:
        mine = [part.split(SIZES)[rank] for part in (images, labels, index)]
        batch = replace(batch, views=(mine[0],), labels=mine[1], index=mine[2])
        step = DistributedDataParallel(step)
    terms = step(batch, LiveTeacher(teacher, method.needs())(batch), sizes=() if rank is None else SIZES)
    torch.stack(list(terms.values())).sum().backward()
    parameters = {**dict(student.network.named_parameters()), **dict(method.named_parameters())}
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


def main(rank: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=RANKS)
    torch.save(gradients(int(rank)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_together_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(RANKS)
    ]
    try:
        whole = gradients(None)
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * RANKS
    finally:
        for rank in ranks:
            rank.kill()

    assert {"conv1.weight", "fc.weight", "projector.weight"} < whole.keys()
    for rank in range(RANKS):
        mine = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert mine.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}")


if __name__ == "__main__":
    main(*sys.argv[1:])
