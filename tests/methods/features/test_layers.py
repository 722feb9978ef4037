"""The paper's numbers of layers, on the networks that it counted them on and on others."""

import pytest

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain
from kdbench.methods.features.layers import layers, standard


def meta(name: str, side: int = 32) -> Chain:
    return networks.form(name, 100, (3, side, side))


def at(name: str, *numbers: int, side: int = 32) -> list[str]:
    chain = meta(name, side)
    ends = layers(chain)
    return [str(chain.form(ends[number])) for number in numbers]


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("fo_resnet9", (1, 2, 3, 4)),
        ("fo_vgg11", (1, 3, 5, 7)),
        ("fo_mobilenetv2", (3, 6, 13, 17)),
        ("fo_vit_ett", (1, 3, 5, 7)),
        ("fo_resnet34", (3, 7, 13, 16)),
        ("fo_vgg19", (3, 7, 11, 15)),
        ("fo_vit_b", (2, 4, 8, 10)),
    ],
)
def test_the_standard_layers_are_the_papers(name: str, paper: tuple[int, ...]) -> None:
    assert standard(meta(name)) == paper


def test_the_papers_standard_layers_end_the_stages() -> None:
    assert at("fo_resnet34", 3, 7, 13, 16) == ["64@32x32", "128@16x16", "256@8x8", "512@4x4"]
    assert at("fo_vgg19", 3, 7, 11, 15) == ["128@16x16", "256@8x8", "512@4x4", "512@2x2"]
    assert at("fo_mobilenetv2", 3, 6, 13, 17) == ["24@16x16", "32@8x8", "96@4x4", "320@2x2"]


def test_the_papers_layers_of_high_quality_are_deep() -> None:
    assert at("fo_resnet34", 12, 13, 14, 15) == ["256@8x8", "256@8x8", "512@4x4", "512@4x4"]
    assert at("fo_vgg19", 11, 12, 13, 15) == ["512@4x4", "512@2x2", "512@2x2", "512@2x2"]
    assert at("fo_vgg19", 16, side=64) == ["512"]  # where the maps become a vector, before the head's activations
    assert at("fo_vit_b", 9, 10, 11, 12) == ["768@8x8"] * 4


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("fo_resnet34", [3, *range(5, 37, 2), 36]),  # a stem, 16 sums with their activations, and the pooled vector
        ("fo_vit_b", list(range(1, 14))),  # the patches and 12 blocks: neither the last norm nor the class token
        ("fo_vit_ett", list(range(1, 10))),
        ("timm:resnet18", [3, *range(6, 21, 2), 21]),  # a stem, a pooling, 8 blocks with their activations, the vector
        ("wrn_16_2", [3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16]),  # activations between blocks count as well
    ],
)
def test_layers_are_lone_activations_and_blocks_and_the_pooled_vector(name: str, depths: list[int]) -> None:
    assert layers(meta(name)) == depths


@pytest.mark.parametrize("name", [name for name in networks.names() if "224" not in name])
def test_every_network_has_layers_to_distil_in_rising_order(name: str) -> None:
    chain = meta(name)
    ends, chosen = layers(chain), standard(chain)
    assert ends == sorted(set(ends)) and ends[0] > 0 and ends[-1] < len(chain)
    assert len(chosen) == min(4, len(ends)) and list(chosen) == sorted(set(chosen)) and chosen[-1] < len(ends)


def test_a_network_that_cannot_be_cut_has_its_embedding() -> None:
    chain = meta("timm:ghostnet_100")
    assert layers(chain) == [len(chain) - 1] and standard(chain) == (0,)


def test_as_many_blocks_as_layers_are_all_tapped() -> None:
    for count in range(1, 7):
        numbers = standard(meta("resnet14"), count)
        assert len(set(numbers)) == count and list(numbers) == sorted(numbers)
