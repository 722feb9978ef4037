"""A network as a chain of links, and the trace that one forward pass leaves behind.

Depths count links: the value at depth ``d`` has passed ``links[:d]``. Depth 0 is the image, depth ``len(links)`` the
logits, and the depth before that is the embedding: the classifier's input, before any dropout.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.methods.forms import Form
from kdbench.methods.precision import computed_in
from kdbench.methods.shadow import Shadow
from kdbench.refusal import Refusal


class Unasked:
    """Stands where a teacher's embedding would be: whoever computes with it is told to ask for it."""

    def detach(self) -> "Unasked":
        return self

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        raise KeyError("the teacher's embedding was not asked for: needs() must say teacher_embedding")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling look for what may not be there
            raise AttributeError(name)
        return self.__torch_function__()


UNASKED: Any = Unasked()


@dataclass(frozen=True)
class Trace:
    """What one forward pass left behind: the features that were asked for, the embedding and the logits."""

    logits: Tensor
    embedding: Tensor
    features: dict[int, Tensor] = field(default_factory=dict)
    views: tuple["Trace", ...] = ()  # one trace a view, this one first, where a method asked for several

    def __getitem__(self, depth: int) -> Tensor:
        if depth not in self.features:
            raise KeyError(f"depth {depth} was not asked for: needs() must name it, and names {sorted(self.features)}")
        return self.features[depth]

    def detached(self) -> "Trace":
        """The same trace, from which no gradient flows back."""
        features = {depth: feature.detach() for depth, feature in self.features.items()}
        views = tuple(view.detached() for view in self.views)
        return Trace(self.logits.detach(), self.embedding.detach(), features, views)

    def narrowed(self, classes: int) -> "Trace":
        """The same trace with the logits of the first ``classes`` classes alone."""
        views = tuple(view.narrowed(classes) for view in self.views)
        return replace(self, logits=self.logits[:, :classes], views=views)


class Chain(nn.Module):
    """A classifier as an ordered list of links, each one's output the next one's input; the last is the classifier.

    ``network`` owns the parameters under their original names; a link is one of its modules, or a module of its own
    where something is done between two of them (an activation, a pooling). ``stages`` are the depths at which the
    classical feature taps lie; every other depth is a tap too. ``norms`` are what the values at some depths have just
    passed, where a link is not a batch norm itself and has no ``last_norm`` to tell.
    """

    links: nn.ModuleList

    def __init__(
        self,
        network: nn.Module,
        links: Iterable[nn.Module],
        *,
        stages: Sequence[int],
        image: tuple[int, int, int] = (3, 32, 32),
        prefix_tokens: int = 0,
        norms: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.links = nn.ModuleList(links)
        self.stages = tuple(stages)
        if not all(0 <= stage <= len(self.links) for stage in self.stages):
            raise ValueError(f"stages must be depths from 0 to {len(self.links)}, got {self.stages}")
        self.image = image
        self.prefix_tokens = prefix_tokens
        self._norms = dict(norms or {})  # where nn.Module does not look: they are submodules once already
        self.precision: torch.dtype | None = None  # the dtype that it computes in; None computes as stored
        known = {id(value) for value in (*network.parameters(), *network.buffers())}
        if any(id(value) not in known for value in (*self.links.parameters(), *self.links.buffers())):
            raise ValueError("a link must not bring weights of its own: the network owns all that is saved")
        for module in self.modules():
            # In place, a link would silently rewrite the value that was recorded just before it.
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010

    def __len__(self) -> int:
        return len(self.links)

    @property
    def classifier(self) -> nn.Module:
        """Without the dropout that may stand before it."""
        last = self.links[-1]
        return last[-1] if isinstance(last, nn.Sequential) and isinstance(last[0], nn.Dropout) else last

    def forward(self, images: Tensor) -> Tensor:
        return self.resume(images, after=0)

    def trace(self, images: Tensor, taps: Collection[int] = (), cut: int | None = None) -> Trace:
        """One forward pass that keeps what lies at ``taps``; nothing behind depth ``cut`` sends a gradient into it."""
        features, value, embedding = {}, images, images
        with computed_in(self.precision, images.device):
            for depth in range(len(self.links) + 1):
                if depth > 0:
                    value = self.links[depth - 1](value)
                if depth in taps:
                    features[depth] = value
                if depth == len(self.links) - 1:
                    embedding = value  # with its gradient, wherever the cut is, as any tap
                if depth == cut:
                    value = value.detach()
        return Trace(_lifted(value), _lifted(embedding), {depth: _lifted(tap) for depth, tap in features.items()})

    def resume(self, feature: Tensor, after: int) -> Tensor:
        """The logits of the rest of the chain, from a feature that stands where the value at depth ``after`` does."""
        with computed_in(self.precision, feature.device):
            for link in self.links[after:]:
                feature = link(feature)
        return _lifted(feature)

    def answering(self, classes: int) -> "Chain":
        """The same network, heard on its first ``classes`` classes alone."""
        links = [*self.links[:-1], First(self.links[-1], classes)]
        chain = Chain(self.network, links, stages=self.stages, image=self.image, norms=self._norms)
        chain.prefix_tokens, chain.precision = self.prefix_tokens, self.precision
        return chain

    def norm_at(self, depth: int) -> _BatchNorm | None:
        """The batch norm that the value at this depth has just passed (a shortcut may have been added since, but no
        activation applied)."""
        if depth == 0:
            return None
        link = self.links[depth - 1]
        norm = self._norms.get(depth) or getattr(link, "last_norm", link)
        if not isinstance(norm, _BatchNorm):
            return None
        # A norm with modules of its own, as timm has them, goes on to apply an activation.
        return norm if all(isinstance(module, nn.Identity) for module in norm.children()) else None

    def before_activation(self, depth: int) -> int:
        """The depth nearest to this one whose value has just passed a batch norm and no activation yet."""
        near = [d for d in (depth, depth - 1, depth + 1) if 0 < d < len(self) and self.norm_at(d) is not None]
        if not near:
            raise Refusal(f"no batch norm stands near depth {depth}")
        return near[0]

    @cached_property
    def _shadow(self) -> tuple[tuple[Form, ...], int]:
        """The form of the value at every depth and the cost of an image, from one pass on the meta device."""
        here = next(self.parameters())
        twin = self if here.is_meta else copy.deepcopy(self).to("meta")
        training = [module for module in twin.modules() if module.training]
        value = torch.empty(2, *self.image, device="meta", dtype=here.dtype)  # one image could be squeezed away
        forms = [self._form(value)]
        with torch.no_grad(), Shadow() as shadow:
            twin.eval()
            for link in twin.links:
                value = link(value)
                forms.append(self._form(value))
        for module in training:
            module.training = True
        return tuple(forms), shadow.macs // len(value)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The form of the value at every depth."""
        return self._shadow[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's way through convolutions, linear layers and attention."""
        return self._shadow[1]

    def form(self, depth: int) -> Form:
        return self.forms[depth]

    @property
    def embedding_width(self) -> int:
        return self.forms[len(self) - 1].channels

    @property
    def classes(self) -> int:
        return self.forms[len(self)].channels

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own state, under its original keys."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def _form(self, value: Tensor) -> Form:
        match tuple(value.shape):
            case (_, channels, height, width):
                return Form("map", channels, (height, width))
            case (_, tokens, channels):
                side = round((tokens - self.prefix_tokens) ** 0.5)
                return Form("tokens", channels, (side, side), self.prefix_tokens)
            case (_, channels):
                return Form("vector", channels)
            case shape:
                raise Refusal(f"a value in a chain must be a map, tokens or a vector, got the shape {shape}")


class First(nn.Module):
    """A classifier's answers for the first classes."""

    def __init__(self, classifier: nn.Module, classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.classes = classes

    def forward(self, embedding: Tensor) -> Tensor:
        logits: Tensor = self.classifier(embedding)
        return logits[:, : self.classes]


def _lifted(value: Tensor) -> Tensor:
    """At least fp32: what a method reads is never coarser, whatever the network computes in."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
