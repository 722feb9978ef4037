"""Several processes that train one network do what one would: the same weights, the same record, the same end.

Run as a script, this file is one of the ranks.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench import methods
from kdbench.benchmark.data import Dataset, load
from kdbench.benchmark.experiments.run import shown
from kdbench.benchmark.networks import build
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.loop import train
from kdbench.benchmark.training.ranks import Ranks
from kdbench.benchmark.training.recipe import Recipe

WORLD = 2
ENGINE = Engine(torch.device("cpu"))
RECIPE = Recipe(epochs=2, batch=16, lr=0.01, schedule="constant")
IMAGES = 57  # the last batch has nine: five for one rank, four for the other
METHODS: dict[str, dict[str, Any]] = {
    "kd": {},
    "rkd": {},  # relates images
    "crd": {"negatives": 16},  # has memory banks
    "ft": {"initial_epochs": 1, "weight": 1.0},  # has a phase in which the student rests
    "ab": {"initial_epochs": 1},  # and one in which the classifier does
    "jacobian": {},  # is differentiated twice
}
KILLED = 5  # steps into the run


def digits(images: int = IMAGES) -> Dataset:
    data = load("digits", Path())
    rows = torch.arange(images)
    return Dataset(data.train[rows], data.test[rows[:41]], data.mean, data.std, data.crop, data.flip)


def resting(module: nn.Module) -> None:
    """Batch norms that relate no images."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign, assignment, misc]


def trained(
    name: str, params: dict[str, Any], ranks: Ranks, *, norms: bool = False, images: int = IMAGES, **how: Any
) -> dict[str, Any]:
    """All that a run leaves behind."""
    data = digits(images)
    torch.manual_seed(1)
    student, teacher = build("resnet8x0.25", 10, (1, 8, 8)), build("resnet14x0.25", 10, (1, 8, 8))
    facts = RECIPE.facts(10, data.train.labels)
    facts = replace(facts, images=lambda rows: shown(data, ENGINE, rows))
    method = methods.create(name, student, teacher, facts, **params)
    if not norms:
        for module in (student, teacher, method):
            resting(module)
    epochs = train(student, teacher, method, data, RECIPE, 0, engine=ENGINE, ranks=ranks, **how)
    terms = [epoch.terms | {"score": epoch.score and epoch.score.loss} for epoch in epochs]
    return {"student": student.state_dict(), "method": method.state_dict(), "terms": terms}


def main(rank: str, folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.join(int(rank), WORLD, Path(folder) / "meeting", ENGINE.device)
    for name in names:
        torch.save(trained(name, METHODS[name], ranks), f"{folder}/{name}.{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
