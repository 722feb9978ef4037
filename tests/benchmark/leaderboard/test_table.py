"""The tables, against numbers that were worked out by hand."""

import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pandas as pd
import pytest
from scipy import stats

from kdbench import methods
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Brief, Record
from kdbench.benchmark.leaderboard.formats import as_json, latex, markdown, parts
from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.report import csv
from kdbench.benchmark.leaderboard.sheets import sheets
from kdbench.benchmark.leaderboard.table import Board, board

MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]


@pytest.fixture
def series(make_cell: MakeCell, make_record: MakeRecord) -> Callable[..., list[Record]]:
    """The records of one series: top-1 by seed."""

    def make(top1: dict[int, float], *cell: str, how: dict[str, Any] | None = None, **asked: Any) -> list[Record]:
        return [
            make_record(make_cell(*cell, seed=seed, **asked), top1=value, **(how or {})) for seed, value in top1.items()
        ]

    return make


Series = Callable[..., list[Record]]


def made(records: list[Record], **measured: Any) -> Board:
    briefs = [msgspec.json.decode(msgspec.json.encode(record), type=Brief) for record in records]
    return board(frame(briefs), **measured)


def leaderboard(records: list[Record]) -> pd.DataFrame:
    return made(records).series


def text(records: list[Record]) -> str:
    """The Markdown, with one blank where there are several."""
    return re.sub(" +", " ", markdown(made(records)))


def rows(records: list[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by pair and method; ``None`` where the table has nothing to say."""
    table = leaderboard(records).astype(object)
    found = table.where(table.notna(), None).to_dict(orient="records")
    named = {(row["pair"], row["method"]): row for row in found}
    assert len(named) == len(found)
    return named


PAIR = "big → resnet8x0.25"


def test_means_deviations_and_gains_are_those_worked_out_by_hand(series: Series) -> None:
    """ce 50, 52, 57: mean 53, deviation sqrt((9 + 1 + 16) / 2) = sqrt(13). kd gains 4, 6, 2 on the same seeds."""
    found = rows(series({0: 50, 1: 52, 2: 57}) + series({0: 54, 1: 58, 2: 59}, "kd", "big"))
    ce, kd = found[PAIR, "ce"], found[PAIR, "kd"]
    assert (ce["n"], ce["top1"], ce["over_ce"], ce["over_kd"]) == (3, 53, None, -4)
    assert ce["std"] == pytest.approx(13**0.5)
    assert (kd["n"], kd["top1"], kd["over_ce"], kd["over_kd"]) == (3, 57, 4, None)
    assert kd["std"] == pytest.approx(7**0.5)
    assert kd["best"] == 58  # records here say that the best epoch was a point better


def test_gains_are_paired_by_seed(series: Series) -> None:
    """Only seed 2 has both: the gain is 57 - 55 there, however different the means are."""
    kd = rows(series({0: 90, 1: 10, 2: 55}) + series({2: 57, 3: 30}, "kd", "big"))[PAIR, "kd"]
    assert (kd["top1"], kd["over_ce"]) == (43.5, 2)


def test_a_gain_larger_than_chance_is_starred_and_one_that_is_not_is_not(series: Series) -> None:
    """Of the same mean gain, 5, one varies by less than a point over five seeds and one by eight."""
    alone = series(dict.fromkeys(range(5), 50.0))
    sure = series(dict(enumerate((54.5, 55, 55.5, 55, 55))), "kd", "big")
    unsure = series(dict(enumerate((45, 65, 55, 48, 62))), "kd", "big", params={"weight": 1})
    said = text(alone + sure + unsure)
    assert "| kd | 5 | 55.00 ± 0.35 | +5.00 ± 0.44 ★ |" in said
    assert "| kd(weight=1.0) | 5 | 55.00 ± 8.63 | +5.00 ± 10.72 |" in said


def test_without_a_reference_there_is_no_gain(series: Series) -> None:
    row = rows(series({0: 57}, "kd", "big", params={"weight": 1}))[PAIR, "kd(weight=1.0)"]
    assert (row["over_ce"], row["over_kd"]) == (None, None)


def test_what_the_teachers_came_to_stands_below_their_students(
    make_cell: MakeCell, make_record: MakeRecord, series: Series
) -> None:
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    records = series({0: 50}) + series({0: 57}, "kd", first, how={"teacher": 49.5})
    assert "Teacher at 49.50, no better than the student by labels alone." in text(records)
    records += series({0: 56}, "kd", second, how={"teacher": 60})
    assert "Teachers at 49.50, 60.00, 1 of them no better than the student by labels alone." in text(records)
    assert rows(records)[PAIR, "kd"]["teacher_top1"] == 54.75
    assert "Teacher" not in text(series({0: 50}))


def test_no_gain_is_taken_between_two_trainings_of_one_teacher(series: Series) -> None:
    records = series({0: 57, 1: 58}, "kd", "big")
    records += series({0: 60, 1: 60}, "clkd", "big", how={"teacher_weights": "e" * 32})
    assert rows(records)[PAIR, "clkd"]["over_kd"] is None
    records += series({0: 57.5}, "rkd", "big")
    assert rows(records)[PAIR, "rkd"]["over_kd"] == 0.5


def test_one_seed_has_no_deviation(series: Series) -> None:
    records = series({0: 50})
    assert rows(records)["resnet8x0.25", "ce"]["std"] is None
    assert "| ce | 1 | 50.00 | 51.00 |" in text(records)  # nor a gain, and no column for it
    assert "±" not in text(records).partition("## ")[2]


def test_a_student_alone_stands_beside_each_of_its_teachers_and_its_teachers_stand_nowhere(
    make_cell: MakeCell, make_record: MakeRecord, series: Series
) -> None:
    teacher = make_cell(student="big")
    records = series({0: 50, 1: 51}) + series({0: 55}, "kd", teacher) + series({1: 57}, "kd", "bigger")
    found = rows([*records, make_record(teacher, top1=80)])
    other = "bigger → resnet8x0.25"
    assert set(found) == {(PAIR, "ce"), (PAIR, "kd"), (other, "ce"), (other, "kd")}
    assert found[PAIR, "ce"]["n"] == found[other, "ce"]["n"] == 2
    assert (found[PAIR, "kd"]["over_ce"], found[other, "kd"]["over_ce"]) == (5, 6)


def test_a_student_whom_nobody_teaches_stands_under_its_own_name(series: Series) -> None:
    found = rows(series({0: 50}) + series({0: 55}, "kd", "big") + series({0: 40}, student="lonely"))
    assert found["lonely", "ce"]["top1"] == 40


def test_a_student_is_compared_under_the_same_teacher_and_counts_once_a_seed(
    make_cell: MakeCell, series: Series
) -> None:
    """Seed 0 of the student comes to 54 and 56 with the two seeds of its teacher, seed 1 to 57 and 63: means 55 and 60.
    Within a teacher the variance is 4.5 and 24.5; of the teachers' means it is 8, of which 2 come from what is left, 4.
    kd at another weight is a point better with each."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    kd = series({0: 54, 1: 57}, "kd", first) + series({0: 56, 1: 63}, "kd", second)
    other = series({0: 55, 1: 58}, "kd", first, params={"weight": 1}) + series(
        {1: 64}, "kd", second, params={"weight": 1}
    )
    found = rows(series({0: 50, 1: 51}) + kd + other)
    row = found[PAIR, "kd"]
    assert (row["n"], row["teachers"], row["top1"], row["over_ce"]) == (2, 2, 57.5, 7)
    assert (row["std"], row["std_teachers"]) == (pytest.approx(14.5**0.5), pytest.approx(6**0.5))
    assert row["over_ce_half"] == pytest.approx(stats.t.ppf(0.975, 1) * 2**0.5 * 2 / 2**0.5)  # gains 5 and 9
    assert found[PAIR, "kd(weight=1.0)"]["over_kd"] == 1
    assert (found[PAIR, "ce"]["teachers"], found[PAIR, "ce"]["over_kd"]) == (0, -7)
    assert "| n | top-1 | teachers | ± teachers |" in text(series({0: 50}) + kd)
    assert "teachers" not in text(series({0: 50}) + kd[:2]).partition("##")[2]
    assert "| 2 (3 runs) |" in text(series({0: 50}) + kd[:3])  # two seeds do not have two teachers each


def test_teachers_whose_students_share_no_seed_say_nothing_of_what_they_differ_by(
    make_cell: MakeCell, series: Series
) -> None:
    """As a grid that is half done has them."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    found = rows(series({0: 50, 1: 51}) + series({0: 55}, "kd", first) + series({1: 58}, "kd", second))
    row = found[PAIR, "kd"]
    assert (row["n"], row["teachers"], row["over_ce"], row["std_teachers"]) == (2, 2, 6, None)


def test_ce_over_kd_is_kd_over_ce_from_the_other_side(series: Series) -> None:
    """The same interval, and one test, whatever else stands in the table."""
    found = rows(
        series({seed: 50 + seed % 2 for seed in range(5)})
        + series({seed: 52 + seed % 3 for seed in range(5)}, "kd", "big")
        + series({seed: 53 - seed % 2 for seed in range(5)}, "clkd", "big")
    )
    ce, kd = found[PAIR, "ce"], found[PAIR, "kd"]
    assert (ce["over_kd"], ce["over_kd_half"], ce["over_kd_p"]) == (-kd["over_ce"], kd["over_ce_half"], kd["over_ce_p"])
    assert kd["over_ce_p"] is not None


def test_two_teachers_of_one_name_are_not_mixed(make_cell: MakeCell, series: Series) -> None:
    longer = msgspec.structs.replace(make_cell().recipe, epochs=9)
    first, second = make_cell(student="big"), make_cell(student="big", recipe=longer)
    found = rows(series({0: 50}) + series({0: 55}, "kd", first) + series({0: 57}, "kd", second))
    names = [f"{PAIR} #{teacher.id[-6:]}" for teacher in (first, second)]
    assert [(found[name, "ce"]["n"], found[name, "kd"]["over_ce"]) for name in names] == [(1, 5), (1, 7)]


def test_two_recipes_of_one_name_are_not_mixed(make_cell: MakeCell, series: Series) -> None:
    longer = msgspec.structs.replace(make_cell().recipe, epochs=9)
    table = leaderboard(series({0: 50}) + series({0: 60}, recipe=longer))
    assert sorted(table["top1"]) == [50, 60]
    assert table["recipe"].str.startswith("tiny #").all() and table["recipe"].nunique() == 2


def test_two_states_of_a_users_file_are_not_mixed(series: Series) -> None:
    old, new = {"mine.py": "00"}, {"mine.py": "11"}
    table = leaderboard(series({0: 50}, "rkd", "big", code=old) + series({0: 60}, "rkd", "big", code=new))
    assert list(table["top1"]) == [60, 50] and list(table["n"]) == [1, 1]
    assert table["method"].str.startswith("rkd #").all()


def test_methods_are_told_apart_by_their_parameters(series: Series) -> None:
    found = rows(series({0: 50}, "kd", "big") + series({0: 60}, "kd", "big", params={"temperature": 2}))
    assert found[PAIR, "kd(temperature=2.0)"]["over_kd"] == 10


def test_speeds_are_those_of_the_environment_where_most_methods_ran(series: Series) -> None:
    """A cost is of the whole training: the phases before the main one, too, take their time."""
    ce = series({0: 50, 1: 50, 2: 50}, how={"speed": 900, "seconds": 4})
    kd = series({0: 55}, "kd", "big", how={"speed": 600, "seconds": 7})
    far = series({1: 55, 2: 55}, "kd", "big", how={"speed": 9000, "seconds": 1, "environment": "there"})
    for records in (ce + kd, ce + kd + far):
        found = rows(records)
        assert [(row["images_per_second"], row["relative_cost"]) for row in found.values()] == [(900, 1), (600, 1.75)]
    assert found[PAIR, "kd"]["n"] == 3  # accuracies are compared
    assert [row["images_per_second"] for row in rows(ce + far).values()] == [900, None]


def test_of_two_environments_with_as_many_methods_the_one_where_ce_ran_tells_speeds(
    make_cell: MakeCell, series: Series
) -> None:
    teacher = make_cell(student="big")
    there = series({0: 50}, "kd", teacher, how={"environment": "a", "speed": 700.0})
    records = there + series({0: 50}, "ce", how={"environment": "b", "speed": 900.0})
    found = rows(records)
    assert (found[PAIR, "ce"]["images_per_second"], found[PAIR, "kd"]["images_per_second"]) == (900, None)


def test_over_pairs_times_are_of_methods_that_were_timed_on_the_same_pairs(series: Series) -> None:
    records = []
    for student, ce, kd, clkd in (("resnet8", 4, 8, 4), ("resnet8x0.5", 25, 100, 25), ("resnet8x2", 60, 60, 0)):
        records += series({0: 50}, student=student, how={"seconds": ce})
        records += series({0: 55}, "kd", "big", student=student, how={"seconds": kd})
        records += series({0: 55}, "clkd", "big", student=student, how={"seconds": clkd}) if clkd else []
    table = made(records).methods.set_index("method")
    assert table["relative_cost"].round(9).fillna(0).to_dict() == {"ce": 1, "kd": 2, "clkd": 0}


def test_cells_that_took_turns_or_heard_from_memory_say_nothing_of_costs(series: Series) -> None:
    ce, kd, other = series({0: 50}), series({0: 55}, "kd", "big"), series({0: 56}, "clkd", "big")
    kd[0].cost.together, other[0].environment.arithmetic = 2, {"teacher": "remembered"}
    table = made(ce + kd + other).series.set_index("method")
    for cost in ("images_per_second", "seconds", "peak_memory_mb", "relative_cost"):
        assert list(table[cost].notna()) == [True, False, False]
    assert table["deployed_parameters"].notna().all()
    assert table.loc["kd", "over_ce"] == 5
    assert "Costs: of cells, beside whatever else ran on here." in text(ce + kd + other)
    nowhere = made(kd).series
    assert nowhere["images_per_second"].isna().all() and "| kd | 5.0 |" in text(kd)


def test_a_speed_is_the_median_over_seeds(series: Series) -> None:
    records = [r for seed, v in enumerate((100, 800, 900)) for r in series({seed: 50}, how={"speed": v})]
    assert rows(records)["resnet8x0.25", "ce"]["images_per_second"] == 800


def test_rows_are_in_the_order_of_sources_and_the_best_comes_first(series: Series) -> None:
    records = (
        series({0: 60}, "kd", "big") + series({0: 70}) + series({0: 50}, "kd", "big", params={"weight": 1})
        + series({0: 10}, "kd+ce", "big")
    )  # fmt: skip
    assert list(leaderboard(records)["method"]) == ["ce", "kd", "kd(weight=1.0)", "kd+ce"]


def test_the_order_of_records_changes_no_byte(series: Series) -> None:
    records = (
        series({seed: 50 + seed / 7 for seed in range(20)})
        + series({seed: 51 + seed / 3 for seed in range(5)}, "kd", "big")
        + series({seed: 52 + seed / 9 for seed in range(3)}, "kd", "bigger")
    )
    first = made(records)
    for seed in range(3):
        again = made(random.Random(seed).sample(records, len(records)))
        for form in (markdown, latex, as_json, lambda made: csv(made.series)):
            assert form(again) == form(first)


def test_the_page_says_what_the_markdown_says(make_cell: MakeCell, series: Series) -> None:
    """Under the same headings, in the same words; numbers bring what they are sorted by."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    found = made(series({0: 50, 1: 51}) + series({0: 54, 1: 57}, "kd", first) + series({1: 63}, "kd", second))
    (part,) = parts(found)
    for table, sheet in zip(part.tables, sheets(found), strict=True):
        names = [column["name"] for column in sheet["columns"]]
        cells = [[cell if isinstance(cell, str) else cell[1] for cell in row["cells"]] for row in group_of(sheet)]
        for said, shown in zip(table.to_dict("records"), cells, strict=True):
            assert said.items() <= dict(zip(names, shown, strict=True)).items()
    (_, kd) = group_of(sheets(found)[0])
    assert (57, "57.00 ± 2.12") in kd["cells"] and (2, "2 (3 runs)") in kd["cells"]


def group_of(sheet: dict[str, Any]) -> list[dict[str, Any]]:
    (group,) = sheet["groups"]
    rows: list[dict[str, Any]] = group["rows"]
    return rows


# -- methods over pairs -----------------------------------------------------------------------------------------------


@pytest.fixture
def eight(series: Series) -> list[Record]:
    """Eight pairs: kd gains 1 to 8 points, at another weight it loses as much on seven of them; the last has none."""
    records = []
    for place in range(8):
        alone = {"student": "resnet8", "teacher": f"big{place}"}
        records += series({0: 50, 1: 52}, student="resnet8") if place == 0 else []
        records += series({0: 51 + place, 1: 53 + place}, "kd", **alone)
        if place < 7:
            records += series({0: 49 - place, 1: 51 - place}, "kd", params={"weight": 1}, **alone)
    return records


def test_over_pairs_a_pair_is_the_unit(eight: list[Record], series: Series) -> None:
    """The mean of 1 to 8 is 4.5, the deviation sqrt(6): whatever the seeds. All eight have one sign: p is 2 / 2^8, and
    three times that after Holm, as three gains are tested; seven of seven come to 2 / 2^7 in both columns."""
    eight += series({0: 40}, student="lonely")  # a student whom nobody teaches is no pair
    table = made(eight).methods.set_index("method")
    kd, other = table.loc["kd"], table.loc["kd(weight=1.0)"]
    assert (kd["pairs"], kd["over_ce"], kd["over_kd_p"]) == (8, 4.5, pytest.approx(float("nan"), nan_ok=True))
    assert kd["over_ce_half"] == pytest.approx(stats.t.ppf(0.975, 7) * 6**0.5 / 8**0.5)
    assert (kd["over_ce_p"], other["over_ce_p"]) == (3 * 2 / 2**8, 2 * 2 / 2**7)
    assert table.loc["ce", "over_kd_p"] == kd["over_ce_p"]
    assert (other["pairs"], other["over_ce"], other["over_kd"]) == (7, -4, -8)
    # ce and kd ran on every pair, kd is better on all; who was not in every race has no rank.
    assert (kd["rank"], table.loc["ce", "rank"]) == (1, 2)
    assert pd.isna(other["rank"])


def test_what_a_seed_does_to_all_pairs_alike_shows_where_the_seed_is_the_unit(
    study: Callable[..., list[Record]],
) -> None:
    """kd gains 1, 2 and 6 on one pair, a point more on the other: 3 and 4 over pairs; 1.5, 2.5 and 6.5 over seeds."""
    pairs = ("resnet8x0.25", "resnet8x0.5")
    records = study({"kd": [1, 2, 6]}, students=pairs)
    (row,) = made(records).methods.query("method == 'kd'").to_dict("records")
    assert row["over_ce"] == 3.5 and row["over_ce_half"] == pytest.approx(stats.t.ppf(0.975, 1) / 2)
    assert row["over_ce_half_seeds"] == pytest.approx(stats.t.ppf(0.975, 2) * 7**0.5 / 3**0.5)
    (row,) = made(records[:-1]).methods.query("method == 'kd'").to_dict("records")  # the last seed is on one pair alone
    assert row["over_ce_half_seeds"] == pytest.approx(stats.t.ppf(0.975, 1) / 2)


def test_ways_for_classes_to_arrive_lend_one_another_no_scatter(study: Callable[..., list[Record]]) -> None:
    """As two pairs of one field would."""
    students = ("resnet8x0.25", "resnet8x0.5")
    records = study({"kd": [1, 2, 6]}, students=students[:1]) + study({"kd": [1, 1.5, 2]}, students=students[1:])
    cells = frame(msgspec.json.decode(msgspec.json.encode(record), type=Brief) for record in records)
    usual = [stats.t.ppf(0.975, 2) * std / 3**0.5 for std in (7**0.5, 0.5)]
    for setting, same in ("incremental", True), ("compression", False):
        table = board(cells.assign(setting=setting)).series.query("method == 'kd'")
        halves = table.sort_values("pair")["over_ce_half"].tolist()
        assert (halves == pytest.approx(usual)) is same


def test_where_pairs_are_too_few_for_any_p_value_to_be_small_there_is_none(eight: list[Record]) -> None:
    """Three gains are tested: 3 · 2 / 2^6 is more than 5%, 3 · 2 / 2^7 is less."""
    said = "pairs: among so many gains a test over pairs finds nothing before there are 7."
    for pairs, silent in ((6, True), (7, False)):
        records = [
            record for record in eight if record.cell.teacher is None or record.cell.teacher.student[-1] < str(pairs)
        ]
        assert made(records).methods["over_ce_p"].isna().all() == silent
        assert (f"{pairs} {said}" in text(records), "p(ce)" in text(records)) == (silent, not silent)


def test_over_pairs_stands_who_ran_on_two_or_more(eight: list[Record], series: Series) -> None:
    once = series({0: 90}, "clkd", "big0", student="resnet8")
    assert list(made(eight + once).methods["method"]) == ["ce", "kd", "kd(weight=1.0)"]


def test_methods_over_pairs_come_first_and_only_where_there_are_several(eight: list[Record], series: Series) -> None:
    titles = [line for line in text(eight).splitlines() if line.startswith("## ")]
    assert titles[0] == "## methods over pairs · digits · tiny" and len(titles) == 9
    assert "over pairs ·" not in text(series({0: 50}) + series({0: 51}, "kd", "big"))


def test_an_interval_on_one_pair_draws_on_the_scatter_of_all(series: Series) -> None:
    """Gains 1 and 3 on one pair, 4 and 8 on the other: variances 2 and 8, pooled 5 with two degrees of freedom."""
    alone = series({0: 50, 1: 50})
    records = alone + series({0: 51, 1: 53}, "kd", "big") + series({0: 54, 1: 58}, "kd", "bigger")
    halves = [row["over_ce_half"] for (_, method), row in rows(records).items() if method == "kd"]
    assert halves == pytest.approx([stats.t.ppf(0.975, 2) * 5**0.5 / 2**0.5] * 2)


def test_the_correlation_within_seeds_is_that_about_each_pairs_mean(series: Series) -> None:
    ce, kd = {0: 50, 1: 52, 2: 57}, {0: 60, 1: 58, 2: 65}
    found = rows(series(ce) + series(kd, "kd", "big"))
    assert found[PAIR, "kd"]["correlation"] == pytest.approx(stats.pearsonr(list(ce.values()), list(kd.values()))[0])
    shifted = series({seed: top1 + 9 for seed, top1 in kd.items()}, "kd", "bigger")
    both = made(series(ce) + series(kd, "kd", "big") + shifted).methods.set_index("method")
    assert both.loc["kd", "correlation"] == pytest.approx(found[PAIR, "kd"]["correlation"])
    two = rows(series(ce) + series({0: 60, 1: 58}, "kd", "big"))  # which always lie on a line
    assert two[PAIR, "kd"]["correlation"] is None


# -- the other setting ------------------------------------------------------------------------------------------------


def test_classes_that_arrive_task_by_task_have_a_section_of_their_own(series: Series) -> None:
    learned = {"average": 61.5, "forgetting": 12.25, "backward_transfer": -8.5, "final": 44.0, "matrix": [[70.0]]}
    one, other = (msgspec.to_builtins(record) for record in series({0: 44}) + series({1: 44}))
    one["result"]["incremental"] = learned
    briefs = [msgspec.convert(plain, Brief) for plain in (one, other)]
    cells = frame(briefs).assign(setting="incremental")
    said = re.sub(" +", " ", markdown(board(cells)))
    assert "## incremental · digits · resnet8x0.25 · tiny" in said
    assert "| labels | ce | 2 | 61.50 | 44.00 ± 0.00 | 12.25 | -8.50 |" in said

    ordinary, task_by_task, _ = sheets(board(pd.concat([frame(briefs), cells])))
    assert ordinary["title"] == "Methods on each pair" and task_by_task["title"].endswith("task by task")
    names = [{column["name"] for column in sheet["columns"]} for sheet in (ordinary, task_by_task)]
    assert names[0] - names[1] == {"top-1", "best epoch"}
    assert names[1] - names[0] == {"average", "final", "forgetting", "backward transfer"}


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_no_records_are_an_empty_table() -> None:
    assert leaderboard([]).empty


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("ce", {}, "labels"),
        ("kd+ce", {}, "logits+labels"),
        ("gone", {}, "other"),
        ("weighted_features", {"weighting": "plain"}, "features"),
        ("weighted_logits+kd", {"weighted_logits": {"weighting": "full"}}, "gradients+logits"),
        ("weighted_logits+kd", {"weighted_logits": {"weighting": "plain"}}, "logits"),
    ],
)
def test_a_source_is_that_of_all_members_with_their_parameters(
    method: str, params: dict[str, Any], expected: str
) -> None:
    assert methods.sources(method, params) == expected
