"""Which depths of two networks answer to each other."""

import pytest
from torch import nn

from kdbench.benchmark import networks
from kdbench.methods.alignment import aligned
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal
from tests.pairs import FEATURE_ONLY, STANDARD

MIXED = [("fo_vit_b", "resnet20"), ("resnet56", "fo_vit_ett"), ("vgg13", "fo_vit_ett")]
IMAGE = (3, 32, 32)


def pairs(teacher: str, student: str) -> list[str]:
    """The pairs in words: channels and size of the student's map or tokens, then the teacher's."""
    one, other = networks.form(student, 100, IMAGE), networks.form(teacher, 100, IMAGE)
    return [f"{one.form(s)} {other.form(t)}" for s, t in aligned(one, other)]


def sizes(chain: Chain) -> list[int]:
    return [chain.form(depth).size[0] for depth in chain.stages]


@pytest.mark.parametrize(("teacher", "student"), STANDARD + FEATURE_ONLY + MIXED)
def test_last_answers_to_last_and_every_depth_once(teacher: str, student: str) -> None:
    one, other = networks.form(student, 100, IMAGE), networks.form(teacher, 100, IMAGE)
    found = aligned(one, other)
    mine, theirs = [s for s, _ in found], [t for _, t in found]
    assert found[-1] == (one.stages[-1], other.stages[-1])
    assert mine == sorted(set(mine)) and set(mine) <= set(one.stages)
    assert theirs == sorted(set(theirs)) and set(theirs) <= set(other.stages)
    assert [(t, s) for s, t in found] == aligned(other, one)
    counts = [len(set(sizes(chain))) if len(set(sizes(chain))) > 1 else len(chain.stages) for chain in (one, other)]
    assert len(found) == min(counts)


SAME_LAST = [pair for pair in STANDARD if "MobileNetV2" not in pair and pair[1] not in ("ShuffleV1", "ShuffleV2")]


@pytest.mark.parametrize(("teacher", "student"), SAME_LAST)
def test_between_networks_that_end_at_the_same_resolution_all_sizes_agree(teacher: str, student: str) -> None:
    one, other = networks.form(student, 100, IMAGE), networks.form(teacher, 100, IMAGE)
    assert all(one.form(s).size == other.form(t).size for s, t in aligned(one, other))


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ("resnet56", "resnet20", ["16@32x32 16@32x32", "32@16x16 32@16x16", "64@8x8 64@8x8"]),
        # the stem and the first stage, and the last two, share a size: the deeper of each stands for it
        ("vgg13", "vgg8", ["64@32x32 64@32x32", "128@16x16 128@16x16", "256@8x8 256@8x8", "512@4x4 512@4x4"]),
        # half as large at every index
        ("vgg13", "MobileNetV2", ["12@16x16 64@32x32", "16@8x8 128@16x16", "48@4x4 256@8x8", "160@2x2 512@4x4"]),
        ("ResNet50", "MobileNetV2", ["12@16x16 256@32x32", "16@8x8 512@16x16", "48@4x4 1024@8x8", "160@2x2 2048@4x4"]),
        # the student has one resolution more, at its stem
        ("resnet32x4", "ShuffleV1", ["240@16x16 64@32x32", "480@8x8 128@16x16", "960@4x4 256@8x8"]),
        # a ViT's stages all lie at one: each counts
        ("resnet56", "fo_vit_ett", ["192@8x8 16@32x32", "192@8x8 32@16x16", "192@8x8 64@8x8"]),
        ("fo_vit_b", "vgg8", ["64@32x32 768@8x8", "128@16x16 768@8x8", "256@8x8 768@8x8", "512@4x4 768@8x8"]),
    ],
)  # fmt: skip
def test_depths_meet_by_resolution_from_the_end(teacher: str, student: str, expected: list[str]) -> None:
    assert pairs(teacher, student) == expected


def test_on_three_standard_pairs_stages_meet_otherwise_than_by_number() -> None:
    """The published table's note says which: the field leaves the first stage out and counts the rest."""
    otherwise = []
    for teacher, student in STANDARD:
        one, other = networks.form(student, 100, IMAGE), networks.form(teacher, 100, IMAGE)
        if aligned(one, other) != list(zip(one.stages[1:], other.stages[1:], strict=True)):
            otherwise.append((teacher, student))
    assert otherwise == [("vgg13", "vgg8"), ("vgg13", "MobileNetV2"), ("ResNet50", "vgg8")]


def test_a_vits_last_quarters_answer_to_a_network_of_fewer_resolutions() -> None:
    vit, cnn = networks.form("fo_vit_b", 100, IMAGE), networks.form("resnet20", 100, IMAGE)
    assert [teacher for _, teacher in aligned(cnn, vit)] == list(vit.stages[-3:])


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_without_stages_is_refused(role: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    whole = Chain(net, net, stages=[], image=(1, 8, 8))
    other = networks.form("resnet8", 10, (1, 8, 8))
    pair = (whole, other) if role == "student" else (other, whole)
    with pytest.raises(Refusal, match=f"features cannot be aligned: the {role} Sequential has no stages to tap"):
        aligned(*pair)
