"""What the zoo costs, against the field's protocol for images of 32 pixels and 100 classes."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.benchmark import networks
from kdbench.methods.chain import Chain

# parameters, millions of multiply-accumulates (rounded), taps, embedding
ZOO = {
    "resnet20": (278_324, 41, "16@32 16@32 32@16 64@8", 64),
    "resnet32": (472_756, 69, "16@32 16@32 32@16 64@8", 64),
    "resnet56": (861_620, 126, "16@32 16@32 32@16 64@8", 64),
    "resnet110": (1_736_564, 253, "16@32 16@32 32@16 64@8", 64),
    "resnet8x4": (1_233_540, 177, "32@32 64@32 128@16 256@8", 256),
    "resnet32x4": (7_433_860, 1083, "32@32 64@32 128@16 256@8", 256),
    "wrn_16_2": (703_284, 101, "16@32 32@32 64@16 128@8", 128),
    "wrn_40_1": (569_780, 83, "16@32 16@32 32@16 64@8", 64),
    "wrn_40_2": (2_255_156, 328, "16@32 32@32 64@16 128@8", 128),
    "vgg8": (3_965_028, 96, "64@32 128@16 256@8 512@4 512@4", 512),
    "vgg13": (9_462_180, 285, "64@32 128@16 256@8 512@4 512@4", 512),
    "ResNet50": (23_705_252, 1298, "64@32 256@32 512@16 1024@8 2048@4", 2048),
    "MobileNetV2": (812_836, 6.5, "16@16 12@16 16@8 48@4 160@2", 1280),
    "ShuffleV1": (949_258, 39, "24@32 240@16 480@8 960@4", 960),
    "ShuffleV2": (1_355_528, 45, "24@32 116@16 232@8 464@4", 1024),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_costs_what_the_protocol_says(name: str) -> None:
    parameters, millions, taps, embedding = ZOO[name]
    chain = networks.form(name, 100, (3, 32, 32))
    assert sum(parameter.numel() for parameter in chain.parameters()) == parameters
    assert round(chain.macs / 1e6, 1 if isinstance(millions, float) else None) == millions
    forms = [chain.form(depth) for depth in chain.stages]
    assert " ".join(f"{form.channels}@{form.size[0]}" for form in forms) == taps
    assert chain.embedding_width == embedding


class Attention(nn.Module):
    """Four heads over a map's pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.flatten(2).unflatten(1, (4, -1)).transpose(2, 3)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(2, 3).reshape(x.shape)


def test_convolutions_linear_layers_and_attention_count_once_an_image() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Attention(), nn.Flatten())
    net.append(nn.Linear(8 * 25, 7))
    chain = Chain(net, net, stages=[1], image=(3, 5, 5)).train()
    assert chain.macs == 3 * 8 * 9 * 25 + 2 * 25 * 25 * 8 + 8 * 25 * 7
    assert chain.training  # and the chain stays as it was
    assert chain.classifier.weight.device.type == "cpu"


def test_forms_and_cost_are_those_of_a_pass_that_passes_nothing_by() -> None:
    for name in ("timm:mobilenetv3_small_100", "timm:vit_tiny_patch16_224", "ShuffleV2"):
        chain = networks.build(name, 7, (3, 32, 32), device="meta").eval()
        forms, macs = chain.forms, chain.macs
        value = torch.empty(2, 3, 32, 32, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for link, form in zip(chain.links, forms[1:], strict=True):
                value = link(value)
                assert value[0].numel() == form.channels * (form.prefix + form.positions)
        assert counter.get_total_flops() // 4 == macs  # two images, and two operations for each
