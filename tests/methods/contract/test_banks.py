"""A method can keep a memory of every training image, and take it through an interruption."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.loop import Live
from kdbench.methods.chain import Chain, Trace
from kdbench.methods.method import Batch, Facts, Method, Needs
from tests.conftest import Learn, seeded


class Contrast(Method):
    """An image's embedding against what the memory holds of the teacher's, negatives drawn at random."""

    source = "relations"

    def __init__(self, student: Chain, teacher: Chain, facts: Facts, *, width: int = 6, negatives: int = 5) -> None:
        super().__init__(student, teacher, facts)
        self.negatives = negatives
        self.mine = nn.Linear(student.embedding_width, width)
        self.theirs = nn.Linear(teacher.embedding_width, width)
        self.register_buffer("bank", torch.zeros(facts.size, width))
        self.register_buffer("seen", torch.zeros(facts.size, dtype=torch.long))
        self.drawn: list[Tensor] = []

    def needs(self) -> Needs:
        return Needs(teacher_embedding=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        bank, seen = self.get_buffer("bank"), self.get_buffer("seen")
        key = F.normalize(self.theirs(teacher.embedding), dim=1)
        others = torch.randint(len(bank), (len(key), self.negatives), generator=batch.generator, device=key.device)
        self.drawn.append(others)
        keys = torch.cat([key[:, None], bank[others]], dim=1)
        scores = torch.einsum("bw,bkw->bk", F.normalize(self.mine(student.embedding), dim=1), keys)
        with torch.no_grad():
            bank[batch.index] = F.normalize((bank[batch.index] + key) / 2, dim=1)
            seen[batch.index] += 1
        return {"contrast": F.cross_entropy(scores, torch.zeros_like(batch.index))}


class Killed(Exception):
    pass


@pytest.mark.parametrize("steps", [2, 4])
def test_banks_and_negatives_survive_an_interruption(
    teacher: Chain, facts: Facts, learn: Learn, tmp_path: Path, steps: int
) -> None:
    def pair(seed: int) -> tuple[Chain, Contrast]:
        student = seeded("resnet8x0.25", seed)
        return student, Contrast(student, teacher, facts)

    student, method = pair(1)
    learn(student, teacher, method)
    assert (method.get_buffer("seen") == 2).all()  # each image once an epoch, addressed by its index
    assert not torch.equal(method.drawn[0], method.drawn[1])

    def kill(live: Live) -> None:
        if (live.epoch - 1) * live.steps + live.step == steps:
            raise Killed

    interrupted, half = pair(1)
    with pytest.raises(Killed):
        learn(interrupted, teacher, half, checkpoints=Checkpoints(tmp_path, every=0), watch=kill)
    resumed, other = pair(7)
    learn(resumed, teacher, other, checkpoints=Checkpoints(tmp_path))

    assert len(other.drawn) == len(method.drawn) - steps
    for mine, theirs in zip(method.drawn[steps:], other.drawn, strict=True):
        assert torch.equal(mine, theirs)
    for one, two in ((method, other), (student, resumed)):
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key
