"""Published results: none is lost, and everything that they name is known."""

import csv
from collections import defaultdict
from itertools import permutations
from pathlib import Path

import pytest

from kdbench.benchmark.comparison.claims import _names, claims
from kdbench.benchmark.comparison.published import FOLDER, Figure, figures, incremental, paper, papers, stated
from kdbench.benchmark.plans.grid import load, shipped
from kdbench.benchmark.plans.parameters import shown
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
    grids = {name: load(name) for name in shipped()}
    students = {cell.student for grid in grids.values() for cell in grid.cells}
    for claim in claims():
        if claim.grid:
            cells = grids[claim.grid].cells
            run = {shown(cell.method, cell.params) for cell in cells}
            assert {_names(claim.better)[0], _names(claim.worse)[0]} <= run, claim.says
            assert not claim.recipe or {cell.protocol for cell in cells} == {claim.recipe}
            assert set(claim.students) <= students
            widths = set(claim.students) & {cell.student for cell in cells}
            assert len(widths) > 2 or not claim.students  # a slope needs three widths


def _rows() -> dict[tuple[str, str], dict[str, dict[tuple[str, str], Figure]]]:
    """The figures of each method on each data set, by table and pair. Logs are not tables."""
    rows: dict[tuple[str, str], dict[str, dict[tuple[str, str], Figure]]] = defaultdict(lambda: defaultdict(dict))
    for figure in figures():
        if "(log)" not in figure.runs:
            method = figure.method.removeprefix("KD+")  # CTKD is also called KD+CTKD
            rows[figure.dataset, method][figure.table_of][figure.teacher, figure.student] = figure
    return rows


def test_a_row_that_was_copied_is_of_the_same_epoch_and_runs_in_all_tables() -> None:
    """One equal figure may be chance, but not most of a row."""
    copied = 0
    for tables in _rows().values():
        for one, other in permutations(tables.values(), 2):
            shared = [(one[pair], other[pair]) for pair in one.keys() & other.keys()]
            equal = [(a, b) for a, b in shared if a.top1 == b.top1]
            if len(equal) > max(1, len(shared) / 2):
                copied += len(equal)
                assert all((a.statistic, a.runs) == (b.statistic, b.runs) for a, b in equal)
                assert all("copied from" in a.source + b.source or a.statistic == "not stated" for a, b in equal)
    assert copied > 100


def test_a_figure_that_was_copied_stands_in_the_table_that_it_was_copied_from() -> None:
    copies = [figure for figure in figures() if "copied from" in figure.source]
    assert len(copies) == 71
    rows = _rows()
    for copy in copies:
        tables = rows[copy.dataset, copy.method.removeprefix("KD+")]
        original = tables[copy.source.partition("; copied from ")[2]][copy.teacher, copy.student]
        assert "copied from" not in original.source
        assert (copy.top1, copy.std, copy.statistic, copy.runs) == (
            original.top1, original.std, original.statistic, original.runs,
        )  # fmt: skip


def test_a_log_is_one_run_and_a_table_with_logs_beside_it_is_not_said_to_be() -> None:
    """Some of its figures are below the last epoch of their own log, so they are not best epochs of that run."""
    table = [f for f in figures() if f.source.startswith("sunshangquan/logit-standardization-KD README")]
    last = {
        (f.teacher, f.student, f.method): f.top1
        for f in figures()
        if f.runs == "1 run (log)" and f.statistic == "last epoch"
    }
    logged = [f for f in table if (f.teacher, f.student, f.method) in last]
    assert len(logged) == len(last) == 54
    assert sum(f.top1 < last[f.teacher, f.student, f.method] for f in logged) == 16
    assert {stated(f.runs) for f in table if "copied" not in f.source} == {None}


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
