"""Several processes that train one network do what one would: the same weights, the same record, the same end.

Run as a script, this file is one of the ranks.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench import methods
from kdbench.benchmark.data import load
from kdbench.benchmark.networks import build
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.loop import Live, drive, training
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.benchmark.training.recipe import Recipe
from kdbench.methods.chain import Trace
from kdbench.methods.method import Batch, Method, Needs

WORLD = 2
ENGINE = Engine(torch.device("cpu"))
RECIPE = Recipe(epochs=2, batch=16, lr=0.01, schedule="constant")
UNEVEN = 25  # images: the last batch has nine, five for one rank and four for the other
LONELY = 17  # images: in the last batch there is none for the other
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "plain": ("kd", {}, UNEVEN),
    "lonely": ("kd", {}, LONELY),
    "relates images": ("rkd", {}, UNEVEN),
    "adds what was gathered": ("adds", {}, UNEVEN),
    "memory banks": ("crd", {"negatives": 10}, UNEVEN),
    "a phase of its own": ("ft", {"initial_epochs": 1, "weight": 1.0}, UNEVEN),
    "differentiated twice": ("jacobian", {}, UNEVEN),
}


class Killed(Exception):
    pass


class Adds(Method):
    """Two gathered tensors in one sum: both are handed the same gradient."""

    source = "relations"

    def needs(self) -> Needs:
        return Needs(student=frozenset({3, 5}), whole_batch=True)

    def losses(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        return {"sum": (student[3] + student[5]).square().mean()}


def trained(
    name: str, params: dict[str, Any], images: int, ranks: Ranks, *,
    norms: bool = False, watch: Callable[[Live], None] | None = None, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """All that a run leaves behind; without ``norms`` nothing relates a rank's images to each other."""
    digits, rows = load("digits", Path()), torch.arange(images)
    data = replace(digits, train=digits.train[rows], test=digits.test[torch.arange(41)])
    torch.manual_seed(1)
    student, teacher = build("resnet8x0.25", 10, (1, 8, 8)), build("resnet8x0.5", 10, (1, 8, 8))
    facts = replace(RECIPE.facts(10, data.train.labels), images=partial(shown, data, ENGINE))
    make = Adds if name == "adds" else partial(methods.create, name)
    method = make(student, teacher, facts, **params)
    if not norms:
        for module in (student, teacher, method):
            rest(module)
    epochs = drive(training(student, teacher, method, data, RECIPE, 0, engine=ENGINE, ranks=ranks, **how), watch)
    told = [{"terms": epoch.terms, "score": epoch.score and asdict(epoch.score)} for epoch in epochs]
    return {"student": student.state_dict(), "method": method.state_dict(), "told": told}


def rest(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign, assignment, misc]


# -- as a script ------------------------------------------------------------------------------------------------------


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.join(rank, WORLD, folder / "meeting", ENGINE.device)
    left = {case: trained(*what, ranks) for case, what in CASES.items()}

    norms = partial(trained, *CASES["a phase of its own"], ranks, norms=True)
    left["undisturbed"] = norms()
    checkpoints = Checkpoints(folder, every=0) if rank == 0 else None
    for moment in [(1, "ft"), (1, "main"), (2, "main")]:
        with pytest.raises(Killed):
            norms(checkpoints=checkpoints, watch=partial(kill, moment))
    left["resumed"] = norms(checkpoints=checkpoints)
    torch.save(left, folder / f"{rank}.pt")

    try:
        trained(*CASES["plain"], ranks, watch=partial(die, ranks))
    except RuntimeError:
        (folder / "ended").write_text(ranks.trouble())


def kill(moment: tuple[int, str], live: Live) -> None:
    if (live.epoch, live.phase) == moment and live.step == 1:
        raise Killed


def die(ranks: Ranks, live: Live) -> None:
    if ranks.rank == 1:
        ranks.complain("out of memory")
        os._exit(9)


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(WORLD)]
    try:
        assert [rank.wait(timeout=200) for rank in ranks] == [0, 9]
    finally:
        for rank in ranks:
            rank.kill()
    return folder


@pytest.fixture(scope="module")
def left(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_what_one_learns(left: list[dict[str, Any]], case: str) -> None:
    alone = trained(*CASES[case], ALONE)
    for mine in left:
        torch.testing.assert_close(mine[case], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left[0][case], left[1][case], rtol=0, atol=0)


def test_two_ranks_that_were_stopped_and_resumed_end_with_the_same_bits(left: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(left[0]["resumed"], left[0]["undisturbed"], rtol=0, atol=0)


def test_a_rank_that_dies_ends_the_others_and_leaves_word(folder: Path) -> None:
    assert (folder / "ended").read_text() == "out of memory"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
