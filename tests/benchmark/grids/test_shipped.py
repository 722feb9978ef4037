"""Every grid that ships can be run as it stands."""

from pathlib import Path

import pytest

from kdbench.benchmark.plans.grid import load, shipped
from kdbench.benchmark.plans.plan import plan
from kdbench.benchmark.records.store import Store
from kdbench.methods.method import METHODS


@pytest.mark.parametrize("name", shipped())
def test_no_cell_is_invalid(name: str, tmp_path: Path) -> None:
    counts = plan(load(name), Store(tmp_path)).counts()
    assert counts == dict.fromkeys(counts, 0) | {"missing": sum(counts.values())}
    assert counts["missing"] > 0


def test_every_method_is_in_the_grid_of_every_method() -> None:
    named = {part for cell in load("every-method").cells for part in cell.method.split("+")}
    assert named == set(METHODS)
