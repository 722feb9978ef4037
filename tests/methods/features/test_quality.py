"""Knowledge quality against the public numbers and against a second implementation, in NumPy and with loops."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.methods.chain import Chain
from kdbench.methods.features import quality as module
from kdbench.methods.features.layers import layers
from kdbench.methods.features.quality import Quality, best, entropy, qualities, quality
from kdbench.methods.method import Facts
from tests.conftest import Golden

Array = np.ndarray[Any, Any]


def of(features: Tensor, labels: Tensor, size: int, k0: float = 5.0) -> Quality:
    entropies = torch.stack([entropy(features[labels == label]) for label in labels.unique()])
    return quality(features, labels, entropies, size=size, k0=k0)


def second(features: Array, labels: Array, size: int, k0: float = 5.0) -> Quality:
    """The formulas, one pair of images at a time."""
    classes = [[f for f, label in zip(features, labels, strict=True) if label == c] for c in sorted(set(labels))]

    def cosine(one: Array, other: Array) -> float:
        return float(abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other))

    inside = [[cosine(a, b) for a in rows for b in rows] for rows in classes]
    between = [np.mean([cosine(a, b) for a in one for b in other]) for one, other in combinations(classes, 2)]
    entropies = []
    for rows in classes:
        squares = np.linalg.svd(np.array(rows) - np.mean(rows, 0), compute_uv=False) ** 2
        shares = squares[squares > 1e-12 * squares.sum()] / squares.sum()
        entropies.append(-(shares * np.log(shares)).sum())
    nearest = []
    for c, rows in enumerate(classes):
        others = [b for other, theirs in enumerate(classes) if other != c for b in theirs]
        nearest.append(min(np.linalg.norm(a - b) for a in rows for b in others))
    length = np.mean([np.mean([np.linalg.norm(a) for a in rows]) for rows in classes])
    return Quality(
        float(np.mean([np.mean(one) for one in inside]) - np.mean(between)),
        float((1 - np.mean([min(one) for one in inside])) * np.mean(entropies) / math.log(k0)),
        float(2 * np.mean(nearest) / length * (size / math.pi) ** (1 / min(features.shape))),
    )


def close(one: Quality, other: Quality, tolerance: float) -> None:
    assert vars(one) == pytest.approx(vars(other), rel=tolerance, abs=0)


# -- the formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.golden("knowledge_quality")
def test_it_is_the_papers_quality_with_the_proper_entropy_in_every_precision(golden: Golden) -> None:
    """value64 has the proper entropy; value32, the public fp32 code, has one that underflows in two of the cases."""
    found = of(golden["features"], golden["labels"], golden.parameters["N_train"])
    public = golden.entry["formula_float64"]["code_style_full_matrix"]["k0=5"]
    close(found, Quality(public["S"], public["I"], public["E"]), golden.tolerance)
    assert found.q == pytest.approx(golden.entry["value64"], rel=golden.tolerance, abs=0)


@pytest.mark.golden("knowledge_quality")
def test_k0_may_be_the_500_that_the_papers_code_speaks_of(golden: Golden) -> None:
    found = of(golden["features"], golden["labels"], golden.parameters["N_train"], k0=500)
    public = golden.entry["formula_float64"]["code_style_full_matrix"]["k0=500"]
    assert (found.information, found.q) == pytest.approx((public["I"], public["Q"]), rel=golden.tolerance, abs=0)


@pytest.mark.parametrize("shape", [(40, 6), (15, 50)])
def test_it_is_what_loops_over_pairs_of_images_give(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 4, 7])[torch.randint(3, shape[:1], generator=draw)]  # not every number is a class
    close(of(features, labels, size=1000), second(features.numpy(), labels.numpy(), size=1000), 1e-9)


def test_dead_features_have_no_quality() -> None:
    dead = of(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]), size=6)
    assert vars(dead) == {"separation": 0, "information": 0, "efficiency": 0} and dead.q == 0


def test_the_best_are_those_of_the_highest_q_from_shallow_to_deep() -> None:
    known = [Quality(s, 0.5, 0.5) for s in (0.1, 0.9, 0.2, 0.8, 0.3)]
    assert best(known, 3) == (1, 3, 4)


# -- a teacher's layers -----------------------------------------------------------------------------------------------


def flattened(teacher: Chain, facts: Facts) -> list[Array]:
    images = torch.cat(list(facts.images(torch.arange(facts.size))))
    with torch.no_grad():
        trace = teacher.eval().trace(images, layers(teacher))
    return [trace[depth].flatten(1).double().numpy() for depth in layers(teacher)]


def test_every_layer_is_measured_by_its_flattened_features(teacher: Chain, facts: Facts) -> None:
    found = qualities(teacher, facts, k0=20)
    assert len(found) == len(layers(teacher)) == 8
    features = flattened(teacher, facts)
    for one, values in zip(found, features, strict=True):
        close(one, second(values, facts.labels.numpy(), facts.size, k0=20), 2e-4)


def test_the_draw_is_always_the_same(teacher: Chain, facts: Facts) -> None:
    few = partial(qualities, teacher, facts, samples=20, class_samples=4)
    torch.manual_seed(1)
    first = few()
    torch.manual_seed(2)
    assert first == few() != qualities(teacher, facts)


def test_the_entropy_may_come_from_more_images_than_the_rest(teacher: Chain, facts: Facts) -> None:
    one, other = (qualities(teacher, facts, samples=20, class_samples=count)[-1] for count in (3, 6))
    assert (one.separation, one.efficiency) == (other.separation, other.efficiency)
    assert one.information < other.information


def test_features_are_held_in_groups_that_fit_and_only_too_large_ones_are_averaged(
    teacher: Chain, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = qualities(teacher, facts)
    widths = [values.shape[1] for values in flattened(teacher, facts)]
    monkeypatch.setattr(module, "LARGEST", max(widths))
    assert len(module._groups(dict(enumerate(widths)))) > 1
    for one, other in zip(whole, qualities(teacher, facts), strict=True):
        close(one, other, 1e-6)
    monkeypatch.setattr(module, "LARGEST", max(widths) // 4)
    averaged = qualities(teacher, facts)
    kept = [module._width(teacher.form(depth)) == width for depth, width in zip(layers(teacher), widths, strict=True)]
    assert [one == pytest.approx(other, rel=1e-6) for one, other in zip(q(averaged), q(whole), strict=True)] == kept
    assert not all(kept) and any(kept)


def q(found: list[Quality]) -> list[float]:
    return [one.q for one in found]


def test_the_precision_of_the_run_does_not_matter(teacher: Chain, facts: Facts) -> None:
    plain = qualities(teacher, facts)
    teacher.precision = torch.bfloat16
    assert qualities(teacher, facts) == plain and teacher.precision == torch.bfloat16


def test_what_was_measured_is_remembered_by_all_its_settings(teacher: Chain, facts: Facts) -> None:
    kept: dict[str, Any] = {}

    def remembered(name: str, find: Any) -> Any:
        if name not in kept:
            kept[name] = find()
        return kept[name]

    facts = replace(facts, remembered=remembered)
    assert qualities(teacher, facts) == qualities(teacher, facts)
    for changed in ({"samples": 20}, {"class_samples": 3}):
        qualities(teacher, facts, **changed)
    assert len(kept) == 3 and not any("/" in name for name in kept)


def test_another_k0_is_another_unit_of_information_and_needs_no_other_measurement(teacher: Chain, facts: Facts) -> None:
    found = qualities(teacher, facts)
    other = qualities(teacher, facts, k0=500.0)
    for one, two in zip(found, other, strict=True):
        assert (one.separation, one.efficiency) == (two.separation, two.efficiency)
        assert one.information * math.log(5) == pytest.approx(two.information * math.log(500))


def test_progress_runs_to_the_end(teacher: Chain, facts: Facts) -> None:
    seen: list[float] = []
    qualities(teacher, facts, watch=seen.append)
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] == pytest.approx(1)
