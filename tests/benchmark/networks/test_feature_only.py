"""The feature-only paper's networks: what they share with the libraries' models, and where they differ."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain

SMALL = ["fo_resnet9", "fo_vgg11", "fo_mobilenetv2", "fo_vit_ett"]
ALL = [*SMALL, "fo_resnet34", "fo_vgg19", "fo_vit_b"]
CLASSES = 7


def seasoned(name: str, image: tuple[int, int, int] = (3, 32, 32)) -> Chain:
    """What starts from zero would hide what it multiplies."""
    torch.manual_seed(0)
    chain = networks.build(name, CLASSES, image)
    with torch.no_grad():
        for parameter in chain.parameters():
            if not parameter.any():
                parameter.uniform_(-0.5, 0.5)
        for norm in chain.modules():  # running statistics that fit the images, or the signal fades on a long way
            if isinstance(norm, _BatchNorm):
                norm.momentum = 1.0
        chain.train()(some_images(image[1]))
    return chain


def some_images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def meta(name: str, classes: int = 100, side: int = 32) -> Chain:
    return networks.form(name, classes, (3, side, side))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", SMALL)
def test_the_rest_of_the_chain_gives_the_logits_from_every_depth(name: str, size: int) -> None:
    chain, images = seasoned(name, (3, size, size)).eval(), some_images(size)
    with torch.no_grad():
        trace = chain.trace(images, range(len(chain) + 1))
        assert trace.logits.std(dim=0).max() > 1e-3
        for depth in range(len(chain) + 1):
            rest = chain.resume(trace[depth], after=depth)
            assert torch.allclose(rest, trace.logits, rtol=1e-5, atol=1e-5), depth
            form, shape = chain.form(depth), tuple(trace[depth].shape[1:])
            assert shape in (
                (form.channels, *form.size),
                (form.prefix + form.size[0] * form.size[1], form.channels),
                (form.channels,),
            )


def test_vggs_last_dropout_is_the_classifiers_and_not_the_embeddings() -> None:
    """A student's embedding is held against a teacher's, which drops nothing."""
    chain = seasoned("fo_vgg11").eval()
    chain.links[-1].train()
    with torch.no_grad():
        one, other = (chain.trace(some_images()) for _ in range(2))
    assert torch.equal(one.embedding, other.embedding) and not torch.equal(one.logits, other.logits)
    assert isinstance(chain.classifier, nn.Linear) and chain.classifier.in_features == chain.embedding_width


def resnet34() -> nn.Module:
    net = torchvision.models.resnet34(num_classes=CLASSES)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def vgg11() -> nn.Module:
    with torch.device("meta"):
        net = torchvision.models.vgg11_bn(num_classes=CLASSES)
        net.avgpool, net.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4096)
    return net.to_empty(device="cpu")


def mobilenet() -> nn.Module:
    net = torchvision.models.mobilenet_v2(num_classes=CLASSES, dropout=0.0)
    net.features[0][0].stride = (1, 1)
    return net


def vit() -> nn.Module:
    """timm's answers from its class token; the paper's from the mean of all tokens."""
    net: Any = timm.create_model("vit_base_patch16_224", patch_size=4, img_size=32, num_classes=CLASSES)
    net.forward_head = lambda tokens: net.head(tokens.mean(dim=1))
    return cast(nn.Module, net)


@pytest.mark.parametrize(
    ("name", "library"),
    [("fo_resnet34", resnet34), ("fo_vgg11", vgg11), ("fo_mobilenetv2", mobilenet), ("fo_vit_b", vit)],
)
def test_the_librarys_model_with_the_same_state_gives_the_same_logits(
    name: str, library: Callable[[], nn.Module]
) -> None:
    chain, plain = seasoned(name), library()
    assert list(plain.state_dict()) == list(chain.state_dict())
    plain.load_state_dict(chain.state_dict())
    with torch.no_grad():
        for training in (False, True):
            answers = []
            for model in (chain, plain):
                torch.manual_seed(2)  # both drop the same
                answers.append(model.train(training)(some_images()))
            assert answers[1].any()
            assert torch.allclose(*answers, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(chain.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.allclose(mine[1], theirs[1], rtol=1e-5, atol=1e-6), mine[0]  # running statistics, after one step


@pytest.mark.parametrize("name", ["fo_resnet34", "fo_vgg19", "fo_mobilenetv2"])
def test_behind_every_stage_a_norm_of_the_same_width_is_found(name: str) -> None:
    chain = meta(name)
    for stage in chain.stages:
        norm = chain.norm_at(chain.before_activation(stage))
        assert norm is not None and norm.num_features == chain.form(stage).channels


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", ALL)
def test_taps_are_as_large_as_the_paper_has_them(name: str, side: int) -> None:
    chain = meta(name, side=side)
    got = [chain.form(depth).size[0] for depth in chain.stages]
    halved = min(side, 32)
    if "vit" in name:
        assert got == [halved // 4] * 4
    elif "resnet" in name:
        assert got == [side, halved, halved // 2, halved // 4, halved // 8]
    else:
        first = side if "vgg" in name else halved
        assert got == [first // 2**halving for halving in range(5)]


def test_a_large_image_is_halved_as_in_the_papers_code() -> None:
    """By torchvision's own pooling behind the stem, by a stride of two, by patches of eight pixels."""
    plain, images = resnet34(), some_images(64)
    plain.maxpool = nn.MaxPool2d(3, 2, 1)
    chain = seasoned("fo_resnet34", (3, 64, 64)).eval()
    plain.load_state_dict(chain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), chain(images), rtol=1e-5, atol=1e-5)
    assert meta("fo_mobilenetv2", side=64).links[0].stride == (2, 2)
    assert meta("fo_vit_b", side=64).network.patch_embed.patch_size == (8, 8)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    ("name", "layers"),
    [("fo_resnet9", (1, 2, 3, 4)), ("fo_vgg11", (1, 3, 5, 7)), ("fo_mobilenetv2", (3, 6, 13, 17))],
)
def test_stages_but_the_first_are_the_papers_student_layers(name: str, layers: tuple[int, ...], side: int) -> None:
    """Layers count activations outside blocks and blocks, from 0; an activation after a sum belongs to its block."""
    chain = meta(name, side=side)
    ends = []
    for depth, link in enumerate(chain.links, start=1):
        if type(link).__name__ in ("BasicBlock", "InvertedResidual"):
            ends.append(depth)
        elif isinstance(link, nn.ReLU | nn.ReLU6):
            if type(chain.links[depth - 2]).__name__ == "BasicBlock":
                ends.pop()
            ends.append(depth)
    assert [ends[layer] for layer in layers] == [*chain.stages[1:]]


def test_every_block_of_the_residual_nets_starts_as_its_shortcut() -> None:
    chain = networks.build("fo_resnet9", CLASSES, (3, 32, 32))
    last = [block.bn2 for block in chain.network.modules() if type(block).__name__ == "BasicBlock"]
    assert len(last) == 4 and not any(norm.weight.any() for norm in last)
    others = [m for m in chain.modules() if isinstance(m, _BatchNorm) and not any(m is norm for norm in last)]
    assert all(norm.weight.eq(1).all() for norm in others)


def test_the_small_vit_starts_with_equal_logits_and_answers_from_all_of_its_tokens() -> None:
    chain = networks.build("fo_vit_ett", CLASSES, (3, 32, 32))
    with torch.no_grad():
        assert not chain(some_images()).any()
        trace = chain.trace(some_images(), [len(chain) - 2])
    torch.testing.assert_close(trace.embedding, trace[len(chain) - 2].mean(dim=1))
    tokens = [chain.form(depth) for depth in chain.stages]
    assert {(form.channels, form.size, form.prefix) for form in tokens} == {(192, (8, 8), 1)}
    block = chain.network.blocks[0]
    assert (len(chain.network.blocks), block.attn.num_heads, block.mlp.fc1.out_features) == (8, 6, 576)


def test_vggs_head_drops_half_twice() -> None:
    assert [m.p for m in meta("fo_vgg19").modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize(("image", "grid"), [((3, 32, 32), (8, 8)), ((3, 8, 32), (2, 8)), ((3, 32, 16), (8, 4))])
def test_tokens_lie_on_a_grid_in_the_proportions_of_the_image(
    image: tuple[int, int, int], grid: tuple[int, int]
) -> None:
    assert networks.form("fo_vit_ett", CLASSES, image).form(1).size == grid
