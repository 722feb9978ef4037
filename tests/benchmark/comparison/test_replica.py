"""The same cells, run twice: how far the two sides agree, against figures computed by hand."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.comparison.replica import opened, report
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.records.archive import export
from kdbench.benchmark.records.cell import IMPORT
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.refusal import Refusal

Series, Command = Callable[..., list[Record]], Callable[..., Any]
CE, KD = {0: 50.0, 1: 52.0, 2: 54.0}, {0: 53.0, 1: 55.0, 2: 57.5}
ELSEWHERE = {"how": {"environment": "there", "weights": "x" * 32}}


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    return Store(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


def fill(store: Store, *series: list[Record]) -> None:
    for records in series:
        for record in records:
            store.finish(record)


def test_a_row_has_the_difference_on_the_same_seeds_and_both_sides_gains(
    ours: Store, theirs: Store, series: Series
) -> None:
    """kd differs by 0, 1 and 2: 1 ± 4.303 / sqrt(3)."""
    fill(ours, series(CE), series(KD, "kd", "big"))
    fill(theirs, series(CE), series({0: 53.0, 1: 56.0, 2: 59.5}, "kd", "big", **ELSEWHERE))
    ce, kd = report(ours, theirs).rows
    assert (kd["method"], kd["n"], kd["ours"], kd["theirs"]) == ("kd", 3, 55.166667, 56.166667)
    assert (kd["difference"], kd["half"]) == (1, pytest.approx(4.303 / 3**0.5, abs=1e-3))
    assert (kd["our_gain"], kd["their_gain"]) == (3.166667, 4.166667)
    assert (ce["method"], ce["difference"], ce["half"], ce["our_gain"]) == ("ce", 0, None, None)


def test_it_says_how_much_came_out_the_same_and_how_far_the_rest_lies_apart(
    ours: Store, theirs: Store, series: Series
) -> None:
    """Cells differ by 0 (three of ce), 1, 2 and 3 points. Our seeds differ by 2, 2 and 4, and by 2, 2.5 and 4.5."""
    fill(ours, series(CE), series(KD, "kd", "big"))
    fill(theirs, series(CE), series({0: 54.0, 1: 57.0, 2: 60.5}, "kd", "big", **ELSEWHERE))
    said = report(ours, theirs).close.splitlines()
    assert said == [
        "- 6 cells in both: 3 with the same weights, 3 from another environment",
        "- digits · tiny: the median difference is 0.50 points between two runs of a cell and 2.25 between two of our "
        "seeds of a series",
        "- of 2 means over several seeds, 1 are equal and 0 differ by more than their interval (about 0 by chance), 0 "
        "of them after Holm's correction",
    ]


def test_cells_of_one_environment_that_have_other_weights_are_told(ours: Store, theirs: Store, series: Series) -> None:
    """Unless their teachers differ in weights."""
    pupils = {"environment": "here", "weights": "x" * 32}
    fill(ours, series(CE), series(KD, "kd", "big"))
    fill(theirs, series(CE, how=pupils), series(KD, "kd", "big", how=pupils | {"teacher_weights": "u" * 32}))
    promise = "- with the same environment and teacher, 3 of 3 have different weights, which must not happen"
    assert promise in report(ours, theirs).close.splitlines()


def test_cells_of_other_data_are_told_and_break_no_promise(ours: Store, theirs: Store, series: Series) -> None:
    fill(ours, series(CE, how={"data": "old"}))
    fill(theirs, series(CE, how={"data": "new", "weights": "x" * 32}))
    said = report(ours, theirs).close
    assert "- 3 cells with other images or labels" in said and "must not happen" not in said


def test_a_recipe_that_the_other_side_wrote_differently_is_the_same(ours: Store, theirs: Store, series: Series) -> None:
    fill(ours, series(CE, protocol="short"))
    fill(theirs, series(CE, protocol="custom(epochs=1)"))
    (row,) = report(ours, theirs).rows
    assert (row["recipe"], row["n"]) == ("short", 3)


def test_a_star_is_looked_for_on_both_sides(ours: Store, theirs: Store, series: Series) -> None:
    ce = {seed: 50.0 + seed for seed in range(5)}
    sure = {seed: 53.0 + seed + seed % 2 / 10 for seed in range(5)}
    worse = {seed: 49.0 + seed + seed % 2 for seed in range(5)}
    fill(ours, series(ce), series(sure, "kd", "big"))
    fill(theirs, series(ce), series(worse, "kd", "big"))
    found = report(ours, theirs)
    (kd,) = (row for row in found.rows if row["method"] == "kd")
    assert (kd["our_star"], kd["their_star"]) == (True, False)
    assert kd["p"] < 0.05 and "1 of them after Holm's correction" in found.close
    assert "of 1 gain over ce with a ★ on either side, 0 have it on both, and 1 have opposite signs" in found.close


def test_a_folder_without_records_is_told_from_one_without_common_ones(
    ours: Store, theirs: Store, series: Series
) -> None:
    fill(ours, series(CE))
    with pytest.raises(Refusal, match="must be an archive of records or a results folder"):
        report(ours, theirs)
    fill(theirs, series(KD, "kd", "big"))
    with pytest.raises(Refusal, match="must have cells in common, got none"):
        report(ours, theirs)


def test_stars_over_kd_are_looked_for_too_and_ways_to_arrive_are_told_apart(
    ours: Store, theirs: Store, series: Series
) -> None:
    kd, sure = {seed: 50.0 + seed for seed in range(5)}, {seed: 53.0 + seed + seed % 2 / 10 for seed in range(5)}
    by_task = {"setting": "incremental", "incremental": Incremental(count=2)}
    for store in (ours, theirs):
        fill(store, series(kd, "kd", "big"), series(sure, "dkd", "big"), series(CE, **by_task))
    said = report(ours, theirs).close
    assert "of 1 gain over kd with a ★ on either side, 1 have it on both, and 0 have opposite signs" in said
    assert "over ce" not in said
    assert "- digits · tiny: the" in said and "- digits · tiny · task by task: the" in said


def test_a_student_without_a_teacher_counts_once_however_many_it_stands_beside(
    ours: Store, theirs: Store, series: Series
) -> None:
    """Seeds differ by 0.5, 0.5 and 1, and twice by 2, 2.5 and 4.5."""
    for store in (ours, theirs):
        fill(store, series({0: 50.0, 1: 50.5, 2: 51.0}), series(KD, "kd", "big"), series(KD, "kd", "resnet8x4"))
    found = report(ours, theirs)
    assert sorted(row["method"] for row in found.rows) == ["ce", "kd", "kd"]
    assert "and 2.00 between two of our seeds of a series" in found.close


def test_differences_are_corrected_for_how_many_they_are(ours: Store, theirs: Store, series: Series) -> None:
    """For 1, 2 and 3, t is 3.464 and p is 0.0742; for -1, 0 and 1.1, p is far larger."""
    fill(ours, series(KD, "kd", "big"), series(KD, "clkd", "big"))
    again, other = ({seed: KD[seed] + by for seed, by in enumerate(far)} for far in ((1, 2, 3), (-1, 0, 1.1)))
    fill(theirs, series(again, "kd", "big"), series(other, "clkd", "big"))
    by_method = {row["method"]: row["p"] for row in report(ours, theirs).rows}
    assert by_method["kd"] == pytest.approx(2 * 0.0742, abs=1e-4)


def test_who_lacks_a_seed_is_held_against_the_others_alone(ours: Store, theirs: Store, series: Series) -> None:
    fill(ours, series(CE), series(KD, "kd", "big"))
    fill(theirs, series({0: 50.0, 7: 99.0}), series({0: 54.0, 7: 99.0}, "kd", "big"), series({0: 1.0}, "clkd", "big"))
    rows = report(ours, theirs).rows
    assert [(row["method"], row["n"], row["ours"], row["theirs"]) for row in rows] == [
        ("ce", 1, 50, 50), ("kd", 1, 53, 54),
    ]  # fmt: skip
    assert all(row["half"] is None for row in rows)


def test_a_seed_counts_once_by_its_mean_over_teachers(
    ours: Store, theirs: Store, series: Series, make_cell: Callable[..., Any]
) -> None:
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    fill(ours, series({0: 50.0, 1: 50.0}, "kd", first), series({0: 50.0, 1: 50.0}, "kd", second))
    fill(theirs, series({0: 51.0, 1: 52.0}, "kd", first), series({0: 53.0, 1: 54.0}, "kd", second))
    (row,) = report(ours, theirs).rows
    assert (row["n"], row["difference"]) == (2, 2.5)


def test_an_archive_says_what_the_folder_says_and_nothing_is_written(
    kdbench: Command, ours: Store, theirs: Store, series: Series, tmp_path: Path
) -> None:
    for store in (ours, theirs):
        fill(store, series(CE), series(KD, "kd", "big"))
    export(theirs, tmp_path / "theirs.zip")
    before = sorted(tmp_path.rglob("*"))
    folder, archive = (
        kdbench("compare", place, "--results", ours.folder) for place in (theirs.folder, tmp_path / "theirs.zip")
    )
    assert folder.out == archive.out and "| kd" in folder.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_grid_narrows_what_is_compared(kdbench: Command, ours: Store, theirs: Store, series: Series) -> None:
    for store in (ours, theirs):
        fill(store, series(CE))
    answer = kdbench("compare", theirs.folder, "quickstart", "--results", ours.folder)
    assert answer.sentence == f"{ours.folder} and the other records must have cells in common, got none"


def test_damaged_records_of_either_side_are_told_of_and_left_where_they_are(
    kdbench: Command, ours: Store, theirs: Store, series: Series
) -> None:
    fill(ours, series(CE))
    fill(theirs, series(CE))
    file = next(theirs.records_folder.iterdir())
    file.write_text("{")
    with opened(theirs.folder) as store:
        assert report(ours, store).rows[0]["n"] == 2
    answer = kdbench("compare", theirs.folder, "--results", ours.folder)
    assert str(file) in answer.err and file.read_text() == "{"


def test_a_teacher_that_was_imported_is_no_run_of_either(
    kdbench: Command, ours: Store, theirs: Store, series: Series
) -> None:
    (record,) = series({0: 70.0})
    cell = msgspec.structs.replace(record.cell, method=IMPORT)
    for store in (ours, theirs):
        fill(store, [msgspec.structs.replace(record, id=cell.id, cell=cell)])
    assert "got none" in kdbench("compare", theirs.folder, "--results", ours.folder).sentence


def test_what_is_no_archive_is_refused(kdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    assert "must be an archive of records" in kdbench("compare", tmp_path / "text.zip").sentence
    assert "No such file" in kdbench("compare", tmp_path / "none.zip").sentence


def test_an_archive_without_any_record_that_is_believed_says_why(
    kdbench: Command, theirs: Store, series: Series, tmp_path: Path
) -> None:
    fill(theirs, [msgspec.structs.replace(record, format=99) for record in series({0: 50.0})])
    file = next(theirs.records_folder.iterdir())
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as archive:
        archive.writestr("records.jsonl", msgspec.json.format(file.read_bytes(), indent=-1) + b"\n")
    sentence = kdbench("compare", tmp_path / "newer.zip").sentence
    assert sentence.startswith(f"{tmp_path / 'newer.zip'} must hold records, got none: ") and "format is 99" in sentence


def test_cells_that_they_trained_on_other_data_are_compared_all_the_same_and_named(
    ours: Store, theirs: Store, series: Series
) -> None:
    """Their ce has images of its own, so it is not beside their kd; their kd has both."""
    fill(ours, series(CE), series(KD, "kd", "big"))
    fill(theirs, [msgspec.structs.replace(record, data="a1 b1") for record in series(CE)])
    fill(theirs, [msgspec.structs.replace(record, data="a2 b2") for record in series(KD, "kd", "big")])
    rows = report(ours, theirs).rows
    assert [(row["method"], row["n"], row["difference"]) for row in rows] == [("ce", 3, 0), ("kd", 3, 0)]
    assert rows[1]["our_gain"] and rows[1]["their_gain"] is None
