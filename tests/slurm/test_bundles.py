"""Which cells share a job."""

from dataclasses import replace

import msgspec
import pytest

from kdbench.benchmark.plans.plan import Entry, State
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.training.recipe import Recipe
from kdbench.slurm.bundles import bundles
from kdbench.slurm.site import Site


def entries(*seconds: float | None) -> list[Entry]:
    recipe = Recipe(epochs=1)
    cells = [Cell(dataset="digits", student="resnet8", method="ce", recipe=recipe, seed=i) for i in range(len(seconds))]
    return [Entry(cell, State.MISSING, seconds=value) for cell, value in zip(cells, seconds, strict=True)]


def seeds(*seconds: float | None, **site: int) -> list[list[int]]:
    return [[cell.seed for cell in job.cells] for job in bundles(entries(*seconds), Site(**site))]


def test_short_cells_share_a_job_until_it_is_worth_its_start() -> None:
    assert seeds(300, 300, 600, 60, 60, worthwhile=20) == [[0, 1, 2], [3, 4]]


def test_a_cell_of_unmeasured_length_has_a_job_for_itself() -> None:
    assert seeds(60, None, 60, worthwhile=20) == [[1], [0, 2]]


@pytest.mark.parametrize(("seconds", "minutes"), [(600.0, 20), (36_000.0, 240), (None, 240)])
def test_a_job_asks_for_somewhat_more_than_was_measured_and_never_for_more_than_there_is(
    seconds: float | None, minutes: int
) -> None:
    (job,) = bundles(entries(seconds), Site(minutes=240))
    assert job.minutes == minutes


def test_a_cell_that_several_processes_train_has_a_job_for_itself() -> None:
    short = entries(*[60.0] * 4)
    several = [replace(entry, cell=msgspec.structs.replace(entry.cell, world=2)) for entry in short[:2]]
    jobs = bundles([*several, *short[2:]], Site())
    assert [(job.world, [cell.seed for cell in job.cells]) for job in jobs] == [(2, [0]), (2, [1]), (1, [2, 3])]


def test_no_cell_is_lost_and_none_comes_twice() -> None:
    found = seeds(*([100.0, None, 5000.0, 1.0] * 25))
    assert sorted(seed for job in found for seed in job) == list(range(100))
