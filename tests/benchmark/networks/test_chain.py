"""What every network keeps of the chain's promises."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain
from kdbench.methods.forms import Form
from kdbench.refusal import Refusal

NAMES = [
    "resnet8",
    "resnet20",
    "resnet14x2",
    "resnet8x4",
    "resnet8x0.25",
    "wrn_10_3",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "vgg8",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
    "ResNet50",
    "fo_resnet9",
    "fo_mobilenetv2",
]
IMAGES = [(1, 8, 8), (3, 13, 17)]
every_network = pytest.mark.parametrize("name", NAMES)
every_image = pytest.mark.parametrize("image", IMAGES, ids=str)


def seasoned(name: str, image: tuple[int, int, int] = (1, 8, 8)) -> Chain:
    """A network whose norms no longer do nothing: their scales, shifts and running statistics are drawn at random."""
    torch.manual_seed(0)
    chain = networks.build(name, 10, image)
    with torch.no_grad():
        for module in chain.modules():
            if isinstance(module, _BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return chain


def some_images(image: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return torch.randn(3, *image, generator=torch.Generator().manual_seed(1))


def all_depths(chain: Chain) -> range:
    return range(len(chain) + 1)


@every_network
@every_image
def test_the_rest_of_the_chain_resumed_from_any_depth_gives_the_same_logits(
    name: str, image: tuple[int, int, int]
) -> None:
    chain, images = seasoned(name, image).eval(), some_images(image)
    with torch.no_grad():
        trace = chain.trace(images, all_depths(chain))
        assert torch.equal(chain(images), trace.logits)
        for depth in all_depths(chain):
            assert torch.equal(chain.resume(trace[depth], after=depth), trace.logits), depth


@every_network
def test_depth_0_is_the_image_the_last_the_logits_and_the_one_before_the_embedding(name: str) -> None:
    chain, images = seasoned(name).eval(), some_images()
    trace = chain.trace(images, all_depths(chain))
    assert torch.equal(trace[0], images)
    assert torch.equal(trace[len(chain)], trace.logits)
    assert torch.equal(trace[len(chain) - 1], trace.embedding)
    assert torch.equal(chain.classifier(trace.embedding), trace.logits)
    value = images
    for depth, link in enumerate(chain.links, start=1):
        value = link(value)
        assert torch.equal(trace[depth], value), depth


def test_a_depth_that_was_not_asked_for_is_named_beside_those_that_were() -> None:
    trace = seasoned("resnet8").trace(some_images(), {3, 5})
    assert set(trace.features) == {3, 5}
    with pytest.raises(KeyError, match=r"depth 4 was not asked for: needs\(\) must name it, and names \[3, 5\]"):
        trace[4]


@every_network
@every_image
def test_forms_tell_the_shapes_that_values_have(name: str, image: tuple[int, int, int]) -> None:
    chain = seasoned(name, image)
    trace = chain.trace(some_images(image), all_depths(chain))
    for depth in all_depths(chain):
        form, shape = chain.form(depth), trace[depth].shape[1:]
        want = Form("map", shape[0], (shape[1], shape[2])) if len(shape) == 3 else Form("vector", shape[0])
        assert form == want, depth
    assert chain.embedding_width == trace.embedding.shape[1]
    assert chain.classes == trace.logits.shape[1] == 10
    assert {chain.form(depth).kind for depth in chain.stages} == {"map"}


def test_forms_leave_the_chain_where_it_was() -> None:
    chain = seasoned("resnet8").train()
    before = copy.deepcopy(chain.state_dict())
    assert chain.forms
    assert chain.training
    assert {parameter.device.type for parameter in chain.parameters()} == {"cpu"}
    for key, value in chain.state_dict().items():
        assert torch.equal(value, before[key]), key


class Cloning(nn.Module):
    """Keeps a copy of what its link answers, at the moment when it answers."""

    def __init__(self, link: nn.Module) -> None:
        super().__init__()
        self.link = link
        self.copies: list[Tensor] = []

    def forward(self, value: Tensor) -> Tensor:
        out: Tensor = self.link(value)
        self.copies.append(out.detach().clone())
        return out


@every_network
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_no_link_rewrites_a_value_that_was_recorded_before_it(name: str, mode: str) -> None:
    chain, images = seasoned(name).train(mode == "train"), some_images()
    chain.links = nn.ModuleList(Cloning(link) for link in chain.links)
    trace = chain.trace(images.clone(), all_depths(chain))
    assert torch.equal(trace[0], images)
    for depth, link in enumerate(chain.links, start=1):
        assert torch.equal(trace[depth], link.copies[0]), depth


def test_modules_that_work_in_place_are_switched_off_however_deep_they_lie() -> None:
    inner = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.ReLU(inplace=True)))
    net = nn.Sequential(nn.Conv2d(1, 2, 3), inner, nn.Dropout(0.5, inplace=True), nn.Flatten(), nn.Linear(72, 3))
    chain = Chain(net, net, stages=[1], image=(1, 8, 8))
    with torch.no_grad():
        trace = chain.trace(some_images(), all_depths(chain))
    assert trace[1].min() < 0  # an in-place norm or activation would have clipped it
    assert not any(getattr(module, "inplace", False) for module in chain.modules())


@every_network
def test_nothing_behind_the_cut_sends_a_gradient_into_what_lies_before_it(name: str) -> None:
    chain = seasoned(name)
    for depth in sorted({*chain.stages, 1, len(chain) - 1}):
        before = {id(parameter) for link in chain.links[:depth] for parameter in link.parameters()}
        for cut in (None, depth):
            chain.zero_grad(set_to_none=True)
            chain.trace(some_images(), cut=cut).logits.square().sum().backward()
            touched = {id(p) for p in chain.parameters() if p.grad is not None and bool(p.grad.any())}
            assert bool(touched & before) is (cut is None), depth
            assert id(chain.classifier.weight) in touched
            if cut is None:  # norms' scales and shifts are among what the cut protects
                norms = [m for link in chain.links[:depth] for m in link.modules() if isinstance(m, _BatchNorm)]
                assert {id(p) for norm in norms for p in norm.parameters()} <= touched


@every_network
def test_a_tap_at_the_cut_still_trains_what_lies_before_it(name: str) -> None:
    chain = seasoned(name)
    last = len(chain) - 1
    for depth in (chain.stages[-1], last):
        chain.zero_grad(set_to_none=True)
        chain.trace(some_images(), {depth}, cut=depth)[depth].square().sum().backward()
        assert bool(chain.links[0].weight.grad.any())
    chain.zero_grad(set_to_none=True)
    chain.trace(some_images(), cut=last).embedding.square().sum().backward()
    assert bool(chain.links[0].weight.grad.any())


@every_network
def test_batch_norms_move_once_a_step(name: str) -> None:
    chain = seasoned(name).train()
    chain.trace(some_images(), all_depths(chain))
    counts = {key: int(value) for key, value in chain.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}, counts


@every_network
def test_the_state_has_the_networks_own_keys_and_comes_back(name: str) -> None:
    chain, other = seasoned(name).eval(), networks.build(name, 10, (1, 8, 8)).eval()
    assert list(chain.state_dict()) == list(chain.network.state_dict())
    assert not torch.equal(chain(some_images()), other(some_images()))
    other.load_state_dict(chain.state_dict())
    assert torch.equal(chain(some_images()), other(some_images()))


@every_network
def test_all_that_a_chain_computes_with_is_in_its_state(name: str) -> None:
    chain = seasoned(name)
    held = {value.data_ptr() for value in chain.state_dict().values()}
    used = [value for link in chain.links for value in (*link.parameters(), *link.buffers())]
    assert {value.data_ptr() for value in used} == held


@every_network
def test_a_deep_copy_answers_the_same_and_is_its_own(name: str) -> None:
    chain = seasoned(name).eval()
    before = chain(some_images())
    twin = copy.deepcopy(chain)
    assert torch.equal(twin(some_images()), before)
    with torch.no_grad():
        for parameter in twin.network.parameters():
            parameter.add_(1)
    assert torch.equal(chain(some_images()), before)
    assert not torch.equal(twin(some_images()), before)  # its links are those of its own network


@every_network
def test_in_bf16_all_that_a_trace_holds_comes_out_in_fp32(name: str) -> None:
    chain, images = seasoned(name).eval(), some_images()
    exact = chain.trace(images, all_depths(chain))
    chain.precision = torch.bfloat16
    trace = chain.trace(images, all_depths(chain))
    values = [*trace.features.values(), trace.embedding, trace.logits, chain(images), chain.resume(trace[3], after=3)]
    assert {value.dtype for value in values} == {torch.float32}
    error = float(((trace.logits - exact.logits).abs().max() / exact.logits.abs().max()).detach())
    assert 1e-5 < error < 0.1  # computed coarsely, and yet the same network
    assert torch.equal(trace[1], trace[1].bfloat16().float())


@every_network
def test_in_double_all_that_a_trace_holds_stays_double(name: str) -> None:
    chain = seasoned(name).double()
    trace = chain.trace(some_images().double(), all_depths(chain))
    assert {v.dtype for v in (*trace.features.values(), trace.embedding, trace.logits)} == {torch.float64}
    assert chain.forms[-1] == Form("vector", 10)


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "resnet110"])
def test_every_residual_sum_can_be_tapped_before_its_activation(name: str) -> None:
    chain = networks.build(name, 10, (3, 32, 32), device="meta")
    for depth in chain.stages:
        assert isinstance(chain.links[depth - 1], nn.ReLU)
        assert chain.before_activation(depth) == depth - 1
        assert chain.norm_at(depth) is None


def test_a_depth_with_no_batch_norm_near_is_refused() -> None:
    chain = seasoned("wrn_16_1")
    assert chain.norm_at(0) is None
    with pytest.raises(Refusal, match=r"no batch norm stands near depth 1$"):
        chain.before_activation(1)


@pytest.mark.parametrize("name", networks.names())
def test_every_listed_network_can_be_built_for_nothing(name: str) -> None:
    chain = networks.build(name, 7, (3, 32, 32), device="meta")
    assert chain.classes == 7
    assert {parameter.device.type for parameter in chain.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet21", r"^a resnet's depth must be 6n \+ 2 and its widths from 1 to a few thousand, got 'resnet21'$"),
        ("resnet2", r"^a resnet's depth must be 6n \+ 2 and its widths from 1 to a few thousand, got 'resnet2'$"),
        ("resnet8x0.01", r"^a resnet's depth must be .* got 'resnet8x0.01'$"),
        ("wrn_17_2", r"^a wide resnet's depth must be 6n \+ 4 and its factor from 1 to 1000, got 'wrn_17_2'$"),
        ("wrn_16_0", r"^a wide resnet's depth must be .* got 'wrn_16_0'$"),
        ("resnet_20", r"^unknown network 'resnet_20'; did you mean .*'resnet20'.*\?$"),
        ("wrn-16-2", r"^unknown network 'wrn-16-2'; did you mean .*'wrn_16_2'.*\?$"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_sentence(name: str, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        networks.build(name, 10, (3, 32, 32))
