"""Recipes, and the optimisers and schedules that they ask for."""

from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from kdbench.benchmark.training.optimizer import optimize
from kdbench.benchmark.training.recipe import RECIPES, Recipe
from kdbench.refusal import Refusal


def weight() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def rates(recipe: Recipe, steps: int, *, initial: bool = False, epochs: int | None = None) -> list[list[float]]:
    """The learning rate of every step, epoch by epoch."""
    optimizer, schedule = optimize([weight()], recipe, steps, initial=initial)
    seen = []
    for _ in range(epochs or recipe.epochs):
        seen.append([])
        for _ in range(steps):
            seen[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    return seen


def test_cifar_240_is_the_fields_recipe() -> None:
    recipe = RECIPES["cifar-240"]
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.momentum, recipe.weight_decay) == (240, 64, 0.05, 0.9, 5e-4)
    assert (recipe.optimizer, recipe.precision, recipe.augment) == ("sgd", "fp32", True)
    assert recipe.steps(50_000) == 782


def test_cifar_240_divides_its_rate_by_ten_from_epochs_151_181_and_211_on() -> None:
    seen = rates(RECIPES["cifar-240"], steps=3)
    for epoch, lrs in enumerate(seen, start=1):
        want = 0.05 * 0.1 ** sum(epoch >= first for first in (151, 181, 211))
        assert lrs == pytest.approx([want] * 3), epoch


@pytest.mark.parametrize("name", ["cifar-short", "quick"])
def test_one_cycle_is_torchs_and_peaks_at_the_recipes_rate(name: str) -> None:
    recipe, steps = RECIPES[name], 10
    seen = [lr for epoch in rates(recipe, steps) for lr in epoch]
    assert max(seen) == pytest.approx(recipe.lr, rel=1e-3)  # the peak lies between two steps
    assert seen.index(max(seen)) == pytest.approx(recipe.warmup * len(seen), abs=1)
    optimizer = SGD([weight()], recipe.lr, momentum=0.9)
    schedule = OneCycleLR(optimizer, recipe.lr, total_steps=len(seen) + 1, pct_start=recipe.warmup)
    for lr in seen:
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(3, 3, 0.1), (9, 1, 0.1), (4, 1, 0.2), (1, 1, 0.5)])
def test_one_cycle_may_reach_its_peak_after_the_first_step(epochs: int, steps: int, warmup: float) -> None:
    recipe = Recipe(epochs=epochs, schedule="onecycle", lr=0.1, warmup=warmup)
    seen = [lr for epoch in rates(recipe, steps) for lr in epoch]
    assert seen[0] == pytest.approx(0.1 / 25) and seen == seen[:1] + sorted(seen[1:], reverse=True)


def test_a_constant_rate_stays_and_so_does_any_in_an_initial_phase() -> None:
    recipe = Recipe(epochs=3, schedule="constant", lr=0.2)
    assert rates(recipe, steps=2) == [[0.2, 0.2]] * 3
    for schedule, milestones in ("steps", (1,)), ("onecycle", ()):
        other = msgspec.structs.replace(recipe, schedule=schedule, milestones=milestones)
        assert rates(other, steps=2, initial=True, epochs=5) == [[0.2, 0.2]] * 5  # however long the phase


def test_steps_without_milestones_are_a_constant_rate() -> None:
    assert Recipe(epochs=3) == Recipe(epochs=3, schedule="steps") == Recipe(epochs=3, schedule="constant")


def test_the_optimiser_is_the_one_that_is_named_with_decay_on_every_parameter() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    for name, kind, momentum in (("sgd", SGD, 0.8), ("adamw", AdamW, 0.9)):
        recipe = Recipe(epochs=1, optimizer=name, momentum=momentum, weight_decay=0.03, lr=0.02)
        optimizer, _ = optimize(net.parameters(), recipe, steps=1)
        assert isinstance(optimizer, kind)
        (group,) = optimizer.param_groups
        assert (len(group["params"]), group["weight_decay"], group["lr"]) == (4, 0.03, 0.02)
        if kind is SGD:
            assert (group["momentum"], group["nesterov"]) == (0.8, False)


def test_a_network_may_need_a_rate_of_its_own() -> None:
    """The field's: a fifth for the small ones, in the short recipe as in the long."""
    for recipe in (RECIPES["cifar-240"], RECIPES["cifar-short"]):
        for name in ("MobileNetV2", "ShuffleV1", "ShuffleV2"):
            assert recipe.for_network(name).lr == pytest.approx(recipe.lr / 5)
        assert recipe.for_network("resnet20").lr == recipe.lr
    recipe = RECIPES["cifar-240"]
    other = msgspec.structs.replace(recipe, lr=0.01, lr_of={})
    assert recipe.for_network("ShuffleV1") == other  # what is resolved does not say how it was asked for


@pytest.mark.parametrize(("images", "batch", "steps"), [(60, 16, 4), (64, 16, 4), (65, 16, 5), (3, 16, 1)])
def test_the_last_partial_batch_is_a_step(images: int, batch: int, steps: int) -> None:
    recipe = Recipe(epochs=2, batch=batch)
    assert recipe.steps(images) == steps
    facts = recipe.facts(3, torch.zeros(images).long())
    assert (facts.classes, facts.size, facts.batch, facts.steps, facts.epochs) == (3, images, batch, steps, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 0}, {"epochs": 1.5}, {"batch": 0}, {"lr": 0}, {"lr": -1}, {"lr": "fast"}, {"momentum": 1}),
        *({"weight_decay": -1e-4}, {"optimizer": "adam"}, {"schedule": "cosine"}, {"milestones": [0]}),
        *({"warmup": 0}, {"warmup": 1}, {"augment": "yes"}, {"precision": "fp16"}, {"lr_of": {"resnet8": 0}}),
        *({"milestones": [2, 1]}, {"milestones": [1, 1]}, {"milestones": [1], "schedule": "constant"}),
        *({"warmup": 0.5}, {"learning_rate": 0.1}),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    assert msgspec.convert({"epochs": 3}, Recipe) == Recipe(epochs=3)
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.convert({"epochs": 3} | wrong, Recipe)


@pytest.mark.parametrize("other", [{"schedule": "onecycle"}, {"optimizer": "adamw"}], ids=str)
def test_a_momentum_that_nothing_would_heed_is_refused(other: dict[str, Any]) -> None:
    assert msgspec.convert({"epochs": 3, "momentum": 0.9} | other, Recipe) == Recipe(epochs=3, **other)
    with pytest.raises(msgspec.ValidationError, match=r"^momentum must be 0\.9 .* got 0\.8"):
        msgspec.convert({"epochs": 3, "momentum": 0.8} | other, Recipe)


def test_a_recipe_is_the_same_after_it_was_written_and_read() -> None:
    for name in RECIPES:
        assert msgspec.json.decode(msgspec.json.encode(RECIPES[name]), type=Recipe) == RECIPES[name]


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(Refusal, match=r"^unknown recipe 'cifar240'; did you mean 'cifar-240'"):
        RECIPES["cifar240"]
