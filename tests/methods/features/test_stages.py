"""What methods that go stage by stage have in common: they go through any two networks."""

import pytest
import torch

from kdbench.benchmark import networks
from kdbench.methods import create
from kdbench.methods.features.stages import Stagewise, at_one_size
from kdbench.methods.method import METHODS, Batch, Facts
from tests.pairs import STANDARD

NAMES = [name for name, kind in METHODS.items() if issubclass(kind, Stagewise)]
IMAGE = (3, 32, 32)
MIXED = [("fo_vit_ett", "resnet8x0.25"), ("resnet8x0.25", "fo_vit_ett")]
MARGINS = ("ofd", *MIXED[0])  # are taken from the teacher's batch norms, and a transformer has none


@pytest.mark.parametrize(("teacher", "student"), STANDARD)
def test_every_one_can_be_made_for_every_standard_pair(teacher: str, student: str, facts: Facts) -> None:
    one, other = networks.form(student, 100, IMAGE), networks.form(teacher, 100, IMAGE)
    with torch.device("meta"):
        for name in NAMES:
            create(name, one, other, facts)


@pytest.mark.parametrize(
    ("name", "teacher", "student"), [case for name in NAMES for pair in MIXED if (case := (name, *pair)) != MARGINS]
)
def test_maps_and_tokens_can_be_compared(name: str, teacher: str, student: str, facts: Facts) -> None:
    torch.manual_seed(0)
    one, other = (networks.build(network, classes=10, image=IMAGE, device="cpu") for network in (student, teacher))
    method = create(name, one, other, facts)
    phases = [*(phase.name for phase in method.phases), "main"]
    images = torch.randn(4, *IMAGE)
    mine = one.trace(images, method.needs().student)
    with torch.no_grad():
        theirs = other.trace(images, method.needs().teacher)
    for phase in phases:
        batch = Batch((images,), facts.labels[:4], torch.arange(4), torch.tensor(1.0), torch.Generator(), phase)
        assert all(value.isfinite() and value.requires_grad for value in method.losses(mine, theirs, batch).values())


def test_the_larger_of_two_maps_is_averaged() -> None:
    tall, wide = torch.randn(1, 2, 8, 2), torch.randn(1, 3, 4, 4)
    one, other = at_one_size(tall, wide)
    assert one.shape == (1, 2, 4, 2) and other.shape == (1, 3, 4, 2)
    torch.testing.assert_close(one.mean((2, 3)), tall.mean((2, 3)))
