"""What others have published: nothing of it is lost, and all that it speaks of is known here."""

import csv
from pathlib import Path

import pytest

from kdbench.benchmark.experiments.grid import load, shipped
from kdbench.benchmark.experiments.parameters import shown
from kdbench.benchmark.leaderboard.claims import _names, claims
from kdbench.benchmark.leaderboard.published import FOLDER, figures, incremental, paper, papers, stated
from kdbench.methods import members
from kdbench.refusal import Refusal

ROOT = Path(__file__).parents[3]


def test_the_figures_are_those_of_the_results() -> None:
    with (ROOT / "results/published/published.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(figures()) > 700
    assert [float(row["top1"]) for row in rows] == [figure.top1 for figure in figures()]


def test_every_figure_says_where_it_was_read_and_belongs_to_one_table() -> None:
    assert all(figure.source and figure.table_of for figure in [*figures(), *incremental()])
    listed = [figure for known in papers().values() for figure in known.figures()]
    assert len(listed) == len(figures()) and set(listed) == set(figures())


def test_all_that_papers_and_claims_name_is_known() -> None:
    for known in papers().values():
        assert known.grid in {"", *shipped()}
        assert bool(known.table_of) == bool(known.figures())
    for method in filter(None, (known.ours(f.method) for known in papers().values() for f in known.figures())):
        assert members(method)
    for claim in claims():
        assert claim.paper in papers() and claim.grid in {"", *shipped()}
        forms = {*_names(claim.better), *_names(claim.worse)}
        assert all(members(form.partition("(")[0]) for form in forms)


def test_the_grid_of_a_claim_brings_its_evidence() -> None:
    grids = {name: load(name) for name in {claim.grid for claim in claims()} - {""}}
    for claim in claims():
        if claim.grid:
            cells = grids[claim.grid].cells
            run = {shown(cell.method, cell.params) for cell in cells}
            assert {_names(claim.better)[0], _names(claim.worse)[0]} <= run, claim.says
            assert not claim.recipe or {cell.protocol for cell in cells} == {claim.recipe}
            assert set(claim.students) <= {cell.student for cell in cells}


@pytest.mark.parametrize(
    ("runs", "count"), [("1 run, seed 2021", 1), ("mean of 5", 5), ("mean of runs", None), ("", None)]
)
def test_how_many_runs_a_figure_is_of(runs: str, count: int | None) -> None:
    assert stated(runs) == count


def test_a_name_that_is_no_table_is_answered_with_those_that_are_near() -> None:
    with pytest.raises(Refusal, match="unknown table 'dkdd'; did you mean 'dkd'"):
        paper("dkdd")


def test_figures_are_package_data() -> None:
    assert (FOLDER / "papers.yaml").exists() and FOLDER.parent.name == "kdbench"
