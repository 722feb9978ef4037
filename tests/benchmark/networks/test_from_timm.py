"""Chains cut from timm's models, against timm's own forward pass."""

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.benchmark import networks
from kdbench.benchmark.networks.from_timm import chained
from kdbench.benchmark.networks.timms import LISTED
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal

WHOLE = ("resnetv2_50", "ghostnet_100")  # of families that are not cut
# A stem that is a convolution alone, a head without a norm, norms that activate without a module for it.
UNUSUAL = ("regnetv_040", "convnext_tiny_hnf", "test_efficientnet_evos")
CLASSES = 7


@pytest.fixture(scope="module", params=[*LISTED, *UNUSUAL, *WHOLE])
def model(request: pytest.FixtureRequest) -> str:
    """All tests of one model run before those of the next: kept at once, they would take gigabytes."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def chain(model: str) -> Chain:
    return seasoned(model)


def seasoned(model: str, image: tuple[int, int, int] = (3, 32, 32)) -> Chain:
    """Nothing is zero any more: neither a classifier nor a scale that would hide what a block does."""
    torch.manual_seed(0)
    chain = networks.build(f"timm:{model}", CLASSES, image)
    with torch.no_grad():
        for parameter in chain.parameters():
            if not parameter.any() or parameter.dim() == 1:
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
        settle(chain, some_images(image))
    return chain


def settle(chain: Chain, images: Tensor) -> None:
    """Running statistics that fit the images: with those of a new network the signal would fade on a long way."""
    norms = [module for module in chain.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    chain.train()(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.zero_()


def some_images(image: tuple[int, int, int] = (3, 32, 32)) -> Tensor:
    return torch.randn(4, *image, generator=torch.Generator().manual_seed(1))


def close(value: Tensor, wanted: Tensor) -> bool:
    """Absolutely and against the size of what is wanted."""
    scale = max(1.0, float(wanted.abs().max()))
    return bool(wanted.any()) and bool((value - wanted).abs().max() <= 1e-5 * scale)


def statistics(chain: Chain) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in chain.network.named_buffers()}


def restore(chain: Chain, buffers: dict[str, Tensor]) -> None:
    for key, value in chain.network.named_buffers():
        value.copy_(buffers[key])


def test_in_evaluation_the_logits_are_timms_and_come_back_from_every_depth(model: str, chain: Chain) -> None:
    chain, images = chain.eval(), some_images()[:2]
    with torch.no_grad():
        trace = chain.trace(images, range(len(chain) + 1))
        assert close(trace.logits, chain.network(images))
        assert trace.logits.std(dim=0).max() > 1e-3  # and they tell one image from another
        for depth in range(len(chain) + 1):
            if model != "vgg11_bn" or depth in (0, *chain.stages, len(chain) - 1):  # its head alone weighs 400 MB
                assert close(chain.resume(trace[depth], after=depth), trace.logits), depth
            if depth > 0:
                assert close(chain.links[depth - 1](trace[depth - 1]), trace[depth]), depth
            assert tuple(trace[depth].shape[1:]) == shape(chain, depth), depth
        assert torch.equal(chain.classifier(trace.embedding), trace.logits)
        assert chain.embedding_width == trace.embedding.shape[1]


def shape(chain: Chain, depth: int) -> tuple[int, ...]:
    form = chain.form(depth)
    match form.kind:
        case "map":
            return (form.channels, *form.size)
        case "tokens":
            return (form.prefix + form.size[0] * form.size[1], form.channels)
        case _:
            return (form.channels,)


def test_in_training_the_logits_and_the_running_statistics_are_timms(chain: Chain) -> None:
    chain, images = chain.train(), some_images()
    before = statistics(chain)
    torch.manual_seed(2)
    with torch.no_grad():
        chain_logits = chain(images)
    mine = statistics(chain)
    restore(chain, before)
    torch.manual_seed(2)
    with torch.no_grad():
        wanted = chain.network(images)
    theirs = statistics(chain)
    restore(chain, before)
    assert close(chain_logits, wanted)
    for key, value in theirs.items():
        assert torch.allclose(mine[key].double(), value.double(), rtol=1e-5, atol=1e-5), key
    norms = [module for module in chain.modules() if isinstance(module, _BatchNorm)]
    moved = {int(value - before[key]) for key, value in mine.items() if key.endswith("num_batches_tracked")}
    assert moved == ({1} if norms else set())


@pytest.mark.parametrize("model", ["resnet18", "mobilenetv3_small_100", "regnety_002", "convnext_atto", "densenet121"])
def test_what_is_dropped_in_training_is_what_timm_drops(model: str) -> None:
    net = timm.create_model(model, num_classes=CLASSES, drop_rate=0.4)
    chain, images = chained(net, (3, 32, 32)).train(), some_images()
    answers = []
    with torch.no_grad():
        for model_or_chain in (chain, net):
            torch.manual_seed(2)
            answers.append(model_or_chain(images))
        assert close(*answers)
        assert not close(answers[0], chain(images))  # it does drop


def test_every_parameter_receives_a_gradient(chain: Chain) -> None:
    chain.train()
    before = statistics(chain)
    chain.zero_grad(set_to_none=True)
    chain(some_images()).square().sum().backward()
    restore(chain, before)
    untouched = [key for key, parameter in chain.network.named_parameters() if parameter.grad is None]
    chain.zero_grad(set_to_none=True)
    assert untouched == []


def test_the_state_has_timms_own_keys_and_nothing_works_in_place(chain: Chain) -> None:
    assert list(chain.state_dict()) == list(chain.network.state_dict())
    held = {value.data_ptr() for value in chain.state_dict().values()}
    assert {parameter.data_ptr() for link in chain.links for parameter in link.parameters()} <= held
    assert not [key for key, module in chain.network.named_modules() if getattr(module, "inplace", False)]


NORMED = ["resnet18", "resnet50", "regnety_002", "densenet121", "mobilenetv2_100", "mobilenetv3_small_100"]


@pytest.mark.parametrize("model", [*NORMED, "efficientnet_b0", "vgg11_bn"])
def test_behind_every_stage_a_norm_is_found_whose_shift_no_activation_has_touched(model: str) -> None:
    chain, images = seasoned(model).eval(), some_images()[:2]
    depths = [chain.before_activation(depth) for depth in chain.stages]
    for stage, depth in zip(chain.stages, depths, strict=True):
        norm = chain.norm_at(depth)
        assert abs(depth - stage) <= 1 and norm is not None
        with torch.no_grad():
            before = chain.trace(images, {depth})[depth]
            norm.bias.add_(1)
            assert torch.allclose(chain.trace(images, {depth})[depth], before + 1, rtol=1e-4, atol=1e-4), depth
            norm.bias.sub_(1)
        assert before.min() < 0


@pytest.mark.parametrize("model", ["resnet18", "regnety_002", "efficientnet_b0"])
def test_a_norm_that_activates_too_is_not_what_a_value_has_just_passed(model: str) -> None:
    chain = seasoned(model)
    stem = chain.stages[0]
    assert chain.norm_at(stem) is None and chain.norm_at(stem - 1) is not None


def test_a_norm_of_the_next_stage_does_not_stand_in_for_a_missing_one() -> None:
    """Its second stage ends with an activation, and the next block has another size."""
    chain = networks.form("timm:efficientnetv2_rw_t", CLASSES, (3, 32, 32))
    with pytest.raises(Refusal, match="no batch norm stands near"):
        chain.before_activation(chain.stages[1])


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto", "resnetv2_50"])
def test_a_family_without_batch_norm_says_so(model: str) -> None:
    chain = seasoned(model)
    for depth in range(1, len(chain)):
        with pytest.raises(Refusal, match=f"no batch norm stands near depth {depth}$"):
            chain.before_activation(depth)


@pytest.mark.parametrize("image", [(1, 32, 32), (3, 64, 64)], ids=str)
def test_image_size_and_channels_adapt(model: str, image: tuple[int, int, int]) -> None:
    chain = networks.form(f"timm:{model}", CLASSES, image)
    assert chain.forms[0].channels == image[0]
    assert chain.classes == CLASSES
    sides = [chain.form(depth).size[0] for depth in chain.stages]
    assert sides == sorted(sides, reverse=True)
    if image[1] == 64:  # each map is twice as large as at 32 pixels, or is one that was rounded up there
        small = networks.form(f"timm:{model}", CLASSES, (3, 32, 32))
        for side, depth in zip(sides, small.stages, strict=True):
            assert small.form(depth).size[0] in (side // 2, (side + 1) // 2)


@pytest.mark.parametrize("model", WHOLE)
def test_a_family_that_is_not_cut_offers_embedding_and_logits_alone(model: str) -> None:
    chain = seasoned(model)
    assert (len(chain), chain.stages) == (2, ())
    assert [form.kind for form in chain.forms] == ["map", "vector", "vector"]


def test_a_model_with_two_heads_that_no_family_knows_is_refused() -> None:
    with pytest.raises(Refusal, match="timm's LevitDistilled has no single classifier that a chain could end in"):
        networks.build("timm:levit_128s", CLASSES, (3, 224, 224), device="meta")


def test_a_name_that_timm_does_not_know_is_answered_with_the_nearest() -> None:
    with pytest.raises(Refusal, match="timm has no model 'resnet81'; did you mean 'resnet"):
        networks.build("timm:resnet81", CLASSES, (3, 32, 32))
