"""A recipe's optimiser and schedule, from torch."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR

from kdbench.benchmark.training.recipe import Recipe


def optimize(
    parameters: Iterable[nn.Parameter], recipe: Recipe, steps: int, *, initial: bool = False
) -> tuple[Optimizer, LRScheduler]:
    """An epoch has ``steps`` steps; the schedule advances every step. In an initial phase the rate is constant."""
    optimizer: Optimizer
    if recipe.optimizer == "sgd":
        optimizer = SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
    else:
        optimizer = AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    schedule: LRScheduler
    if recipe.schedule == "constant" or initial:
        schedule = ConstantLR(optimizer, factor=1)
    elif recipe.schedule == "steps":
        schedule = MultiStepLR(optimizer, [epoch * steps for epoch in recipe.milestones], gamma=0.1)
    else:
        total, warmup = recipe.epochs * steps + 1, recipe.warmup
        while warmup * total == 1:  # torch would divide by the length of a warm-up that ends with the first step
            warmup = math.nextafter(warmup, 1)
        schedule = OneCycleLR(
            optimizer,
            max_lr=recipe.lr,
            total_steps=total,
            pct_start=warmup,
            anneal_strategy="cos",
        )
    return optimizer, schedule
