"""Any timm classifier as a chain, cut from timm's own modules by family.

An unknown family gives a chain of two links, with its embedding and its logits.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models import regnet, resnet
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.mlp_mixer import MlpMixer
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.swin_transformer import SwinTransformer
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kdbench.benchmark.networks.registry import Image
from kdbench.methods.chain import Chain
from kdbench.refusal import Refusal, nearest

# A block's last norm, and the activation after it if there is one. The activation becomes a separate link.
ENDS: dict[type[nn.Module], tuple[str, str]] = {
    BatchNormAct2d: ("", "act"),
    resnet.BasicBlock: ("bn2", "act2"),
    resnet.Bottleneck: ("bn3", "act3"),
    regnet.Bottleneck: ("conv3.bn", "act3"),
    ConvBnAct: ("bn1", "bn1.act"),
    DepthwiseSeparableConv: ("bn2", "bn2.act"),
    EdgeResidual: ("bn2", "bn2.act"),
    InvertedResidual: ("bn3", "bn3.act"),
}


@dataclass
class Cut:
    """The links of a model, the depths where its stages end, and the last norms of its blocks."""

    links: list[nn.Module] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    prefix_tokens: int = 0
    norms: dict[int, nn.Module] = field(default_factory=dict)

    def add(self, *blocks: nn.Module) -> None:
        for block in blocks:
            norm, activation = ENDS.get(type(block), ("", ""))
            # Some norms apply an activation without a module for it.
            applied = dict(block.named_modules()).get(activation, nn.Identity()) if activation else nn.Identity()
            # An activation before a sum stays in the block.
            parted = not isinstance(applied, nn.Identity) and not getattr(block, "has_skip", False)
            self.links.append(without(block, activation) if parted else block)
            if norm:
                self.norms[len(self.links)] = self.links[-1].get_submodule(norm)
            if parted:
                self.links.append(applied)

    def stage(self, blocks: Iterable[nn.Module]) -> None:
        self.add(*blocks)
        self.stages.append(len(self.links))


def without(module: nn.Module, path: str) -> nn.Module:
    """A copy of a module without the module at ``path``; all weights and buffers are shared."""
    name, _, rest = path.partition(".")
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin._modules[name] = without(module.get_submodule(name), rest) if rest else nn.Identity()
    return twin


class Apply(nn.Module):
    """A function as a link."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelsFirst(nn.Module):
    """Wraps a module with channels last for a chain whose maps have channels first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class Body(nn.Module):
    """A model without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return features


class TwoHeads(nn.Module):
    """DeiT's classifier: the mean of two heads, each applied to one half of the embedding."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=1)
        mean: Tensor = (self.first(one) + self.second(other)) / 2
        return mean


def chained(model: nn.Module, image: Image) -> Chain:
    """A timm model as a chain, cut as its family is."""
    cut = next((cut(model) for kind, cut in CUTS.items() if isinstance(model, kind)), None) or _whole(model)
    return Chain(model, cut.links, stages=cut.stages, image=image, prefix_tokens=cut.prefix_tokens, norms=cut.norms)


def create(model: str, classes: int, image: Image) -> nn.Module:
    if not timm.is_model(model):
        raise Refusal(f"timm has no model '{model}'{nearest(model, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": image[0]}
    try:  # models that place tokens on a grid need its size
        net: nn.Module = timm.create_model(model, img_size=image[1:], **options)
    except TypeError:
        net = timm.create_model(model, **options)
    return net


def _drop(model: Any) -> nn.Dropout:
    """A module for timm's dropout, which is a function between two modules."""
    return nn.Dropout(float(getattr(model, "drop_rate", 0.0)))


def _resnet(model: Any) -> Cut:
    cut = Cut()
    cut.stage([model.conv1, model.bn1, model.act1])
    cut.add(model.maxpool)
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        cut.stage(layer.children())
    cut.links += [nn.Sequential(model.global_pool, _drop(model)), model.fc]
    return cut


def _vit(model: Any) -> Cut:
    stem = nn.Sequential(model.patch_embed, Apply(model._pos_embed), model.patch_drop, model.norm_pre)
    cut = Cut([stem], prefix_tokens=model.num_prefix_tokens)
    _quarters(cut, model.blocks)
    cut.links += [model.norm, nn.Sequential(Apply(model.pool), model.fc_norm, model.head_drop), model.head]
    return cut


def _deit(model: Any) -> Cut:
    cut = _vit(model)
    pair = nn.Sequential(Apply(lambda tokens: tokens[:, :2]), model.head_drop, nn.Flatten())
    cut.links[-2:] = [pair, TwoHeads(model.head, model.head_dist)]
    return cut


def _mixer(model: Any) -> Cut:
    cut = Cut([model.stem])
    _quarters(cut, model.blocks)
    pool = Apply(lambda tokens: tokens.mean(dim=1)) if model.global_pool == "avg" else nn.Identity()
    cut.links += [model.norm, nn.Sequential(pool, model.head_drop), model.head]
    return cut


def _swin(model: Any) -> Cut:
    cut = Cut([nn.Sequential(model.patch_embed, Apply(lambda x: x.permute(0, 3, 1, 2)))])
    for layer in model.layers:
        cut.stage(ChannelsFirst(module) for module in (layer.downsample, *layer.blocks))
    cut.links.append(ChannelsFirst(model.norm))
    pool = nn.Sequential(Apply(lambda x: x.permute(0, 2, 3, 1)), model.head.global_pool, model.head.drop)
    cut.links += [pool, model.head.fc]
    return cut


def _convnext(model: Any) -> Cut:
    cut = Cut()
    cut.stage([model.stem])
    for stage in model.stages:
        cut.stage((stage.downsample, *stage.blocks))
    head = model.head
    normed = (head.norm, head.flatten, head.pre_logits) if hasattr(head, "norm") else ()  # else norm_pre is the norm
    cut.links += [model.norm_pre, nn.Sequential(head.global_pool, *normed, head.drop), head.fc]
    return cut


def _efficientnet(model: Any) -> Cut:
    cut = Cut()
    cut.stage([model.conv_stem, model.bn1])
    for stage in model.blocks:
        cut.stage(stage.children())
    cut.stage([model.conv_head, model.bn2])
    cut.links += [nn.Sequential(model.global_pool, _drop(model)), model.classifier]
    return cut


def _mobilenetv3(model: Any) -> Cut:
    cut = Cut()
    cut.stage([model.conv_stem, model.bn1])
    for stage in model.blocks:
        cut.stage(stage.children())
    head = (model.global_pool, model.conv_head, model.norm_head, model.act2, model.flatten, _drop(model))
    cut.links += [nn.Sequential(*head), model.classifier]
    return cut


def _densenet(model: Any) -> Cut:
    """A dense block reuses all its values, so it can be cut only before and after; a transition can be cut inside."""
    cut = Cut()
    for name, module in model.features.named_children():
        cut.add(*(module if name.startswith("transition") else [module]))
        if name.startswith("denseblock") or name == "norm5":
            cut.stages.append(len(cut.links))
    cut.links += [nn.Sequential(model.global_pool, model.head_drop), model.classifier]
    return cut


def _regnet(model: Any) -> Cut:
    cut = Cut()
    cut.stage(list(model.stem.children()) or [model.stem])  # only a convolution, if blocks begin with a norm
    for stage in (model.s1, model.s2, model.s3, model.s4):
        cut.stage(stage.children())
    cut.links += [model.final_conv, nn.Sequential(model.head.global_pool, model.head.drop), model.head.fc]
    return cut


def _vgg(model: Any) -> Cut:
    """A stage ends before its pooling; the embedding is the output of the two wide layers."""
    cut = Cut()
    for module in model.features:
        if isinstance(module, nn.MaxPool2d):
            cut.stages.append(len(cut.links))
        cut.add(module)
    cut.links += [nn.Sequential(model.pre_logits, model.head.global_pool, model.head.drop), model.head.fc]
    return cut


def _whole(model: Any) -> Cut:
    """Only the embedding and the logits."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(classifier, nn.Conv2d):
        classifier = nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), classifier, nn.Flatten())
    elif not isinstance(classifier, nn.Linear):
        raise Refusal(f"timm's {type(model).__name__} has no single classifier that a chain could end in")
    return Cut([nn.Sequential(Body(model), nn.Flatten()), classifier])


def _quarters(cut: Cut, blocks: Iterable[nn.Module]) -> None:
    """Add the blocks of a network without stages; each quarter of them counts as a stage."""
    blocks = list(blocks)
    for number in range(4):
        cut.stage(blocks[number * len(blocks) // 4 : (number + 1) * len(blocks) // 4])


# timm's modules carry no types. A family that derives from another must come before it.
CUTS: dict[type[nn.Module], Callable[..., Cut]] = {
    VisionTransformerDistilled: _deit,
    VisionTransformer: _vit,
    resnet.ResNet: _resnet,
    SwinTransformer: _swin,
    ConvNeXt: _convnext,
    EfficientNet: _efficientnet,
    MobileNetV3: _mobilenetv3,
    DenseNet: _densenet,
    regnet.RegNet: _regnet,
    VGG: _vgg,
    MlpMixer: _mixer,
}
