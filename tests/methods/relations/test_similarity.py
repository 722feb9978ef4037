"""Similarity-preserving distillation."""

import pytest
import torch

from kdbench.benchmark.networks import build
from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Facts, Method
from kdbench.methods.relations.similarity import similarity_loss
from tests.conftest import Golden, MakeBatch


@pytest.mark.golden("SP_pooled")
def test_on_vectors_it_is_the_published_codes(golden: Golden) -> None:
    golden.check(similarity_loss(golden["fs"], golden["ft"]))


@pytest.mark.golden("SP_maps")
def test_on_maps_it_is_the_published_codes(golden: Golden) -> None:
    stages = range(len(golden.inputs) // 2)
    golden.check(torch.stack([similarity_loss(golden[f"s{stage}"], golden[f"t{stage}"]) for stage in stages]).sum())


def test_compares_the_last_stages(student: Chain, teacher: Chain, facts: Facts) -> None:
    needs = create("sp", student, teacher, facts).needs()
    assert needs.student == {student.stages[-1]} and needs.teacher == {teacher.stages[-1]}
    assert needs.whole_batch


def tiny(name: str) -> Chain:
    torch.manual_seed(0)
    return build(name, classes=10, image=(1, 8, 8))


@pytest.mark.parametrize("pair", [("fo_vit_ett", "resnet8x0.25"), ("resnet8x0.25", "fo_vit_ett")])
@pytest.mark.parametrize("name", ["rkd", "sp", "cc", "pkt", "crd"])
def test_relations_are_told_between_convolutions_and_tokens(
    name: str, pair: tuple[str, str], facts: Facts, make_batch: MakeBatch
) -> None:
    student, teacher = tiny(pair[0]), tiny(pair[1])
    method: Method = create(name, student, teacher, facts)
    needs = method.needs()
    batch = make_batch(needs)
    with torch.no_grad():
        heard = teacher.trace(batch.images, needs.teacher)
    terms = method.losses(student.trace(batch.images, needs.student), heard, batch)
    torch.stack(list(terms.values())).sum().backward()
    stem = next(student.parameters()).grad
    assert stem is not None and stem.isfinite().all() and stem.any()
