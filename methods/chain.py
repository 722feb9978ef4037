"""A network as a chain of links, and the trace of one forward pass.

Depths count links: the value at depth ``d`` has passed ``links[:d]``. Depth 0 is the image. Depth ``len(links)`` is the
logits. The depth before that is the embedding: the classifier's input, before any dropout.
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
    """Placeholder for a teacher's embedding that needs() does not request; computing with it raises an error."""

    why = "the teacher's embedding was not asked for: needs() must say teacher_embedding"

    def detach(self) -> "Unasked":
        return self

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        raise KeyError(cls.why)

    def __getitem__(self, _: Any) -> Any:
        return self.__torch_function__()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling probe for optional attributes
            raise AttributeError(name)
        return self.__torch_function__()


class UnaskedLabels(Unasked):
    """The same for the labels of a batch."""

    why = "the labels were not asked for: needs() must say labels"


UNASKED: Any = Unasked()
UNASKED_LABELS: Any = UnaskedLabels()


@dataclass(frozen=True)
class Trace:
    """The results of one forward pass: the requested features, the embedding and the logits."""

    logits: Tensor
    embedding: Tensor
    features: dict[int, Tensor] = field(default_factory=dict)
    views: tuple["Trace", ...] = ()  # one trace per view, this one first, if a method requests several

    def __getitem__(self, depth: int) -> Tensor:
        if depth not in self.features:
            raise KeyError(f"depth {depth} was not asked for: needs() must name it, and names {sorted(self.features)}")
        return self.features[depth]

    def detached(self) -> "Trace":
        """The same trace, through which no gradient flows back."""
        features = {depth: feature.detach() for depth, feature in self.features.items()}
        views = tuple(view.detached() for view in self.views)
        return Trace(self.logits.detach(), self.embedding.detach(), features, views)

    def narrowed(self, classes: int) -> "Trace":
        """The same trace with the logits of only the first ``classes`` classes."""
        views = tuple(view.narrowed(classes) for view in self.views)
        return replace(self, logits=self.logits[:, :classes], views=views)


class Chain(nn.Module):
    """A classifier as an ordered list of links: each link's output is the next one's input, the last is the classifier.

    ``network`` owns the parameters under their original names. A link is one of its modules, or a separate module for
    an operation between two of them (an activation, a pooling). ``stages`` are the depths of the classical feature
    taps; every other depth is a tap too. ``norms`` maps a depth to the norm that the value there has just passed, for a
    link that is not a batch norm itself and has no ``last_norm``.
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
        self._norms = dict(norms or {})  # in a dict, which nn.Module does not search: they already are submodules
        self.precision: torch.dtype | None = None  # the dtype to compute in; None: the dtype of the stored weights
        known = {id(value) for value in (*network.parameters(), *network.buffers())}
        if any(id(value) not in known for value in (*self.links.parameters(), *self.links.buffers())):
            raise ValueError("a link must not add weights to the network's: only the network's weights are saved")
        for module in self.modules():
            # An in-place link would silently overwrite the value that was recorded just before it.
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010

    def __len__(self) -> int:
        return len(self.links)

    @property
    def classifier(self) -> nn.Module:
        """The last link, without any dropout in front of it."""
        last = self.links[-1]
        return last[-1] if isinstance(last, nn.Sequential) and isinstance(last[0], nn.Dropout) else last

    def forward(self, images: Tensor) -> Tensor:
        return self.resume(images, after=0)

    def trace(self, images: Tensor, taps: Collection[int] = (), cut: int | None = None) -> Trace:
        """One forward pass that keeps the values at ``taps``; gradients of deeper values stop at depth ``cut``."""
        features, value, embedding = {}, images, images
        with computed_in(self.precision, images.device):
            for depth in range(len(self.links) + 1):
                if depth > 0:
                    value = self.links[depth - 1](value)
                if depth in taps:
                    features[depth] = value
                if depth == len(self.links) - 1:
                    embedding = value  # recorded before a cut at this depth, as any tap is
                if depth == cut:
                    value = value.detach()
        return Trace(_lifted(value), _lifted(embedding), {depth: _lifted(tap) for depth, tap in features.items()})

    def resume(self, feature: Tensor, after: int) -> Tensor:
        """The logits that the links after depth ``after`` compute from a feature in place of the value there."""
        with computed_in(self.precision, feature.device):
            for link in self.links[after:]:
                feature = link(feature)
        return _lifted(feature)

    def answering(self, classes: int) -> "Chain":
        """The same network with the logits of only its first ``classes`` classes."""
        links = [*self.links[:-1], First(self.links[-1], classes)]
        chain = Chain(self.network, links, stages=self.stages, image=self.image, norms=self._norms)
        chain.prefix_tokens, chain.precision = self.prefix_tokens, self.precision
        return chain

    def norm_at(self, depth: int) -> _BatchNorm | None:
        """The batch norm that the value at this depth has just passed, if any.

        A shortcut may have been added since, but no activation applied.
        """
        if depth == 0:
            return None
        link = self.links[depth - 1]
        norm = self._norms.get(depth) or getattr(link, "last_norm", link)
        if not isinstance(norm, _BatchNorm):
            return None
        # A norm with submodules, as in timm, also applies an activation.
        return norm if all(isinstance(module, nn.Identity) for module in norm.children()) else None

    def before_activation(self, depth: int) -> int:
        """The depth nearest to this one whose value has just passed a batch norm and no activation yet."""
        near = [d for d in (depth, depth - 1, depth + 1) if 0 < d < len(self) and self.norm_at(d) is not None]
        near = [d for d in near if self.form(d) == self.form(depth)]  # the next may begin another stage
        if not near:
            raise Refusal(f"no batch norm stands near depth {depth}")
        return near[0]

    @cached_property
    def _shadow(self) -> tuple[tuple[Form, ...], int]:
        """The form of the value at every depth and the cost of one image, from one pass on the meta device."""
        here = next(self.parameters())
        twin = self if here.is_meta else copy.deepcopy(self).to("meta")
        training = [module for module in twin.modules() if module.training]
        value = torch.empty(2, *self.image, device="meta", dtype=here.dtype)  # a batch of one could be squeezed away
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
        """Multiply-accumulates of one image in convolutions, linear layers and attention."""
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

    def _grid(self, patches: int) -> tuple[int, int]:
        """Rows and columns of patches, in the proportions of the image."""
        _, height, width = self.image
        likely = (patches * height / width) ** 0.5
        rows = min((n for n in range(1, patches + 1) if patches % n == 0), key=lambda n: abs(n - likely))
        return rows, patches // rows

    def _form(self, value: Tensor) -> Form:
        match tuple(value.shape):
            case (_, channels, height, width):
                return Form("map", channels, (height, width))
            case (_, tokens, channels):
                return Form("tokens", channels, self._grid(tokens - self.prefix_tokens), self.prefix_tokens)
            case (_, channels):
                return Form("vector", channels)
            case shape:
                raise Refusal(f"a value in a chain must be a map, tokens or a vector, got the shape {shape}")


class First(nn.Module):
    """A classifier with the logits of only its first ``classes`` classes."""

    def __init__(self, classifier: nn.Module, classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.classes = classes

    def forward(self, embedding: Tensor) -> Tensor:
        logits: Tensor = self.classifier(embedding)
        return logits[:, : self.classes]


def _lifted(value: Tensor) -> Tensor:
    """Converts bf16 and fp16 to fp32: a method never reads a lower precision, whatever the network computes in."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
