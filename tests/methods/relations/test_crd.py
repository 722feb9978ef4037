"""Contrastive representation distillation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kdbench.methods import create
from kdbench.methods.chain import Chain
from kdbench.methods.method import Facts
from kdbench.methods.relations.crd import CRD, Memory, contrast, draw
from kdbench.refusal import Refusal
from tests.conftest import Golden, MakeBatch

# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.golden("CRD_ContrastLoss")
def test_the_contrast_is_the_published_codes(golden: Golden) -> None:
    scores = golden["scores"][..., 0]
    negative = scores[:, 1:]
    golden.check(
        contrast(
            scores[:, 0], negative, torch.ones_like(negative), golden.parameters["K"] / golden.parameters["n_data"]
        )
    )


@pytest.mark.golden("CRD_full")
def test_two_steps_are_the_published_codes(golden: Golden) -> None:
    size, count, width = (golden.parameters[key] for key in ("n_data", "K", "dim"))
    of_student, of_teacher = (
        Memory(size, width, golden.parameters["T"], golden.parameters["momentum"]).to(golden.dtype) for _ in range(2)
    )
    of_student.bank.copy_(golden["mem1"].detach())
    of_teacher.bank.copy_(golden["mem2"].detach())
    index = golden["idx"]
    # The code draws negatives with replacement where it is asked to: then one of them counts twice.
    drawn = golden["contrast_idx"][:, 1:]
    chosen = torch.zeros(len(index), size, dtype=golden.dtype).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=golden.dtype)
    )

    def step() -> Tensor:
        mine = F.normalize(F.linear(golden["fs"], golden["es_w"], golden["es_b"]), dim=1)
        theirs = F.normalize(F.linear(golden["ft"], golden["et_w"], golden["et_b"]), dim=1)
        loss = of_teacher.contrast(mine, index, torch.arange(size), chosen, count)
        loss = loss + of_student.contrast(theirs, index, torch.arange(size), chosen, count)
        of_student.update(index, mine)
        of_teacher.update(index, theirs)
        return loss

    golden.check(step())
    parts = golden.entry["parts64"]
    found = {
        "Z_v1": of_teacher.scale.item(),
        "Z_v2": of_student.scale.item(),
        "mem1_l2_after": of_student.bank.norm().item(),
        "mem2_l2_after": of_teacher.bank.norm().item(),
        "second_call_same_batch": step().item(),  # Z as it was, other memories
    }
    assert found == pytest.approx({name: parts[name] for name in found}, rel=golden.tolerance, abs=0)


# -- the negatives ----------------------------------------------------------------------------------------------------


def test_negatives_are_distinct_of_other_classes_and_as_many_as_asked_for() -> None:
    known = torch.arange(5).repeat_interleave(torch.tensor([3, 20, 7, 1, 9]))  # classes of unequal sizes
    labels = torch.tensor([0, 1, 1, 2, 3, 4])
    candidates, chosen = draw(labels, known, count=15, reach=35, generator=Generator().manual_seed(0))
    assert len(candidates.unique()) == len(candidates) == 35
    assert (chosen.sum(1) == 15).all()
    for label, row in zip(labels, chosen, strict=True):
        assert (known[candidates[row]] != label).all()


def test_every_image_of_another_class_is_as_likely_a_negative_as_any_other() -> None:
    """For each row: the counts over many draws against the uniform distribution, by their chi square."""
    known, labels = torch.arange(40) % 4, torch.tensor([0, 1, 3])
    generator, draws, count = Generator().manual_seed(0), 4000, 12
    counts = torch.zeros(len(labels), len(known))
    together = torch.zeros(len(known), len(known))  # in the first row
    for _ in range(draws):
        candidates, chosen = draw(labels, known, count, 22, generator)
        rows = torch.zeros(len(labels), len(known)).index_copy_(1, candidates, chosen.float())
        counts += rows
        together += rows[0][:, None] * rows[0]
    for label, row in zip(labels, counts, strict=True):
        foreign = row[known != label]
        share = count / len(foreign)
        assert row[known == label].sum() == 0
        # Drawn without replacement, (n−1)/n · Σ(O − E)² / (draws · share · (1 − share)) has n − 1 degrees of freedom.
        chi = ((foreign - draws * share) ** 2).sum() / (draws * share * (1 - share)) * (len(foreign) - 1) / len(foreign)
        assert abs(chi - (len(foreign) - 1)) < 4 * (2 * (len(foreign) - 1)) ** 0.5
    # Two images meet in one draw as often as a uniform subset of this size has both.
    pairs = together[known != 0][:, known != 0][~torch.eye(30, dtype=torch.bool)] / draws
    expected = count * (count - 1) / (30 * 29)
    assert pairs.mean() == pytest.approx(expected)
    assert (pairs - expected).abs().max() < 5 * (expected / draws) ** 0.5


def test_a_batchs_negatives_come_from_its_generator_alone() -> None:
    known, labels = torch.arange(40) % 4, torch.tensor([0, 1])
    torch.manual_seed(0)
    first = draw(labels, known, 10, 20, Generator().manual_seed(5))
    torch.manual_seed(1)
    for one, two in zip(first, draw(labels, known, 10, 20, Generator().manual_seed(5)), strict=True):
        assert torch.equal(one, two)


# -- the method -------------------------------------------------------------------------------------------------------


def made(student: Chain, teacher: Chain, facts: Facts) -> CRD:
    method = create("crd", student, teacher, facts)
    assert isinstance(method, CRD)
    return method


def test_a_small_data_set_gives_all_that_every_class_can_have(student: Chain, teacher: Chain, facts: Facts) -> None:
    largest = int(facts.labels.bincount().max())
    method = made(student, teacher, facts)
    assert method.negatives == len(facts.labels) - largest
    assert method.reach == len(facts.labels)


def test_z_is_fixed_by_the_first_batch_and_only_the_batchs_rows_are_remembered(
    student: Chain, teacher: Chain, facts: Facts, make_batch: MakeBatch
) -> None:
    method = made(student, teacher, facts)
    batch = replace(make_batch(method.needs()), index=torch.arange(8, 16), labels=facts.labels[8:16])
    before = method.of_student.bank.clone()
    with torch.no_grad():
        traces = student.trace(batch.images), teacher.trace(batch.images)
        method.losses(*traces, batch)
        scales = [memory.scale.clone() for memory in (method.of_student, method.of_teacher)]
        method.losses(*traces, batch)
    assert scales == [method.of_student.scale, method.of_teacher.scale] and all(scale > 0 for scale in scales)
    changed = (method.of_student.bank != before).any(1)
    assert changed.nonzero().flatten().tolist() == list(range(8, 16))


def test_a_training_set_of_one_class_is_refused(student: Chain, teacher: Chain, facts: Facts) -> None:
    with pytest.raises(Refusal, match="crd: the training set must have images of two classes"):
        made(student, teacher, replace(facts, labels=torch.zeros(60, dtype=torch.long)))
