"""Knowledge quality: how much a student can learn from each of a teacher's layers, measured before any distillation.

Cooper, Chen, Dwivedy and Gurari, "Logit-Based Losses Limit the Effectiveness of Feature Knowledge Distillation" (2025,
arXiv 2511.14981): Q = S + √(I·E), from the features of training images.

Where the paper's text and its code differ we follow the code: the mean cosine inside a class counts each image with
itself. Two things are ours:

- The code's fp32 arithmetic turns a class's entropy into 0 where the class has fewer singular values than the largest
  one has images (1e-127 underflows). Here the entropy is the proper one in every precision.
- The entropy is that of all singular values. The code leaves out those beyond the number that 95 % of the variance
  takes, summed over the classes. A collapsed layer, of a data set with few classes, has such values.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.features.layers import layers
from kdbench.methods.forms import Form, as_map, resized
from kdbench.methods.method import Facts
from kdbench.methods.survey import survey

K0 = 5.0  # I divides its entropy by log k₀; the paper's value
REMEMBERED = "quality"  # the cached findings' name begins so; the numbers of images follow
LARGEST = 2**16  # values of a feature that is not averaged: every map of the paper's networks at 32 pixels

Watch = Callable[[float], None]  # receives the share of the images that are done


@dataclass(frozen=True)
class Quality:
    """S, I and E of one layer's features."""

    separation: float  # S: do two images of a class point the same way, and two of different classes not?
    information: float  # I: can the images of a class still be told apart, in many directions?
    efficiency: float  # E: how far is the nearest image of another class, relative to the features' length?

    @property
    def q(self) -> float:
        return self.separation + math.sqrt(max(0.0, self.information * self.efficiency))


# -- the mathematics: ``products`` are the inner products of all pairs of images; only the entropy needs more --------


def separation(products: Tensor, labels: Tensor) -> Tensor:
    """S: the mean |cosine| inside a class minus that between two classes, each averaged over (pairs of) classes."""
    members = _members(labels, products)
    between = members.T @ _cosines(products) @ members
    inside, classes = between.diagonal(), len(between)
    return inside.mean() - (between.sum() - inside.sum()) / (classes * (classes - 1))


def information(products: Tensor, labels: Tensor, entropies: Tensor, k0: float) -> Tensor:
    """I: 1 minus the smallest |cosine| inside a class, times the entropy over log k₀, each averaged over classes."""
    same = labels[:, None] == labels
    smallest = _least(_cosines(products).masked_fill(~same, math.inf), labels)
    return (1 - smallest.mean()) * entropies.mean() / math.log(k0)


def efficiency(products: Tensor, labels: Tensor, directions: int, size: int) -> Tensor:
    """E: twice the distance to the nearest image of another class, over the features' length, each averaged over
    classes.

    It is scaled to the distance among ``size`` images that fill as many directions alike.
    """
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt()
    nearest = _least(distances.masked_fill(labels[:, None] == labels, math.inf), labels).mean()
    length = (squares.sqrt() @ _members(labels, products)).mean().clamp(min=torch.finfo(products.dtype).tiny)
    return 2 * nearest / length * (size / math.pi) ** (1 / directions)


def entropy(features: Tensor) -> Tensor:
    """H, in nats, of one class's squared singular values after centring, as shares of their sum."""
    centred = features - features.mean(0)
    few = centred if len(centred) <= centred.shape[1] else centred.T
    squares = torch.linalg.eigvalsh(few @ few.T).clamp(min=0)
    return torch.special.entr(squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)).sum()


def quality(features: Tensor, labels: Tensor, entropies: Tensor, *, size: int, k0: float) -> Quality:
    """S, I and E of features (images, values); the entropies, one per class, may come from more images than these."""
    _, labels = labels.unique(return_inverse=True)
    products = features @ features.T
    return Quality(
        separation(products, labels).item(),
        information(products, labels, entropies, k0).item(),
        efficiency(products, labels, min(features.shape), size).item(),
    )


def _cosines(products: Tensor) -> Tensor:
    lengths = products.diagonal().sqrt().clamp(min=torch.finfo(products.dtype).tiny ** 0.5)
    return (products / lengths[:, None] / lengths).abs()


def _members(labels: Tensor, like: Tensor) -> Tensor:
    """(images, classes): a product with it takes the mean over each class."""
    chosen = F.one_hot(labels).to(like)
    return chosen / chosen.sum(0)


def _least(values: Tensor, labels: Tensor) -> Tensor:
    """The smallest value in the rows of each class."""
    start = values.new_full((int(labels.max()) + 1,), math.inf)
    return start.scatter_reduce(0, labels, values.amin(1), "amin")


# -- a teacher's layers -----------------------------------------------------------------------------------------------


def qualities(
    teacher: Chain,
    facts: Facts,
    *,
    k0: float = K0,
    samples: int = 5000,
    class_samples: int = 500,
    watch: Watch | None = None,
) -> list[Quality]:
    """The quality of every layer, as ``layers`` numbers them; earlier measurements are cached, for any k₀."""

    def find() -> list[tuple[float, ...]]:
        return [astuple(one) for one in _measured(teacher, facts, samples, class_samples, watch)]

    return against(facts.remembered(f"{REMEMBERED}-{samples}-{class_samples}", find), k0)


def against(found: Iterable[Sequence[float]], k0: float = K0) -> list[Quality]:
    """Qualities for ``k0`` from cached ones, which were measured for k₀ = e, whose logarithm is 1."""
    layers = (Quality(*one) for one in found)
    return [replace(one, information=one.information / math.log(k0)) for one in layers]


def best(qualities: Sequence[Quality], count: int) -> tuple[int, ...]:
    """The numbers of the layers with the highest Q, from shallow to deep."""
    ranked = sorted(range(len(qualities)), key=lambda number: -qualities[number].q)
    return tuple(sorted(ranked[:count]))


def _measured(teacher: Chain, facts: Facts, samples: int, class_samples: int, watch: Watch | None) -> list[Quality]:
    """The qualities for k₀ = e.

    All values come from ``samples`` training images, the same number of each class. Only the entropies come from up to
    ``class_samples`` images of each class. The draw is always the same.

    A feature is the whole value at a depth, flattened, as in the paper's code. (Ours: beyond 65,536 values a map is
    averaged to a smaller one.) All layers are read for one class at a time, but only as many layers as fit for the
    samples. At any time, memory holds one class of all layers, or the samples of a few layers.
    """
    depths = layers(teacher)
    order = torch.randperm(facts.size, generator=Generator().manual_seed(0))
    classes = [order[facts.labels[order] == label] for label in facts.labels.unique()]
    chosen = torch.cat([rows[: max(1, samples // len(classes))] for rows in classes])
    groups = _groups({depth: _width(teacher.form(depth)) for depth in depths})
    todo = sum(min(len(rows), class_samples) for rows in classes) + len(groups) * len(chosen)
    done = 0

    def features(rows: Tensor, taps: Sequence[int]) -> dict[int, Tensor]:
        nonlocal done
        found: dict[int, Tensor] = {}
        start = 0
        for trace in survey(teacher, facts, rows, taps):
            for depth in taps:
                flat = _flattened(trace[depth], teacher.form(depth))
                found.setdefault(depth, flat.new_empty(len(rows), flat.shape[1]))[start : start + len(flat)] = flat
            start += len(trace.logits)
            done += len(trace.logits)
            if watch:
                watch(done / todo)
        return found

    # In the precision of its weights, whichever recipe the first run has.
    precision, teacher.precision = teacher.precision, None
    try:
        shown = [{d: entropy(f) for d, f in features(rows[:class_samples], depths).items()} for rows in classes]
        entropies = {depth: torch.stack([one[depth] for one in shown]) for depth in depths}
        found: dict[int, Quality] = {}
        for group in groups:
            for depth, values in features(chosen, group).items():
                labels = facts.labels[chosen].to(values.device)
                found[depth] = quality(values, labels, entropies[depth], size=facts.size, k0=math.e)
    finally:
        teacher.precision = precision
    return [found[depth] for depth in depths]


def _groups(widths: dict[int, int]) -> list[list[int]]:
    """Neighbouring depths, grouped so that their features together have at most ``LARGEST`` values."""
    groups: list[list[int]] = []
    room = 0
    for depth, width in widths.items():
        if width > room:
            groups.append([])
            room = LARGEST
        groups[-1].append(depth)
        room -= width
    return groups


def _flattened(value: Tensor, form: Form) -> Tensor:
    if _kept(form) != form.size:
        value = resized(as_map(value, form), _kept(form))
    return value.flatten(1)


def _width(form: Form) -> int:
    height, width = _kept(form)
    return form.channels * (height * width + (form.prefix if form.kind == "tokens" else 0))


def _kept(form: Form) -> tuple[int, int]:
    """The size to which a map is averaged before it is flattened: its own, unless that is too large."""
    shrink = math.sqrt(LARGEST / (form.channels * form.positions))
    return form.size if shrink >= 1 else (max(1, int(form.size[0] * shrink)), max(1, int(form.size[1] * shrink)))
