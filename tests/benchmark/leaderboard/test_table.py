"""The tables, against numbers computed by hand."""

import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pandas as pd
import pytest
from scipy import stats

from kdbench import methods
from kdbench.benchmark.leaderboard.formats import as_json, latex, markdown, parts
from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.report import csv
from kdbench.benchmark.leaderboard.sheets import sheets
from kdbench.benchmark.leaderboard.table import board
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Brief, Record
from tests.benchmark.leaderboard.boards import PAIR, board_of, rows, text

MakeCell, MakeRecord, Series = Callable[..., Cell], Callable[..., Record], Callable[..., list[Record]]


def test_means_deviations_and_gains_are_those_worked_out_by_hand(series: Series) -> None:
    """ce 50, 52, 57: mean 53, deviation sqrt((9 + 1 + 16) / 2) = sqrt(13). kd gains 4, 6, 2 on the same seeds."""
    found = rows(series({0: 50, 1: 52, 2: 57}) + series({0: 54, 1: 58, 2: 59}, "kd", "big"))
    ce, kd = found[PAIR, "ce"], found[PAIR, "kd"]
    assert (ce["n"], ce["top1"], ce["over_ce"], ce["over_kd"]) == (3, 53, None, -4)
    assert ce["std"] == pytest.approx(13**0.5)
    assert (kd["n"], kd["top1"], kd["over_ce"], kd["over_kd"]) == (3, 57, 4, None)
    assert kd["std"] == pytest.approx(7**0.5)
    assert kd["best"] == 58  # the best epoch of these records is a point better


def test_gains_are_paired_by_seed(series: Series) -> None:
    """Only seed 2 has both: the gain is 57 - 55 there, however different the means are."""
    kd = rows(series({0: 90, 1: 10, 2: 55}) + series({2: 57, 3: 30}, "kd", "big"))[PAIR, "kd"]
    assert (kd["top1"], kd["over_ce"]) == (43.5, 2)


def test_a_gain_larger_than_chance_is_starred_and_one_that_is_not_is_not(series: Series) -> None:
    """Two gains with the mean 5: one varies by less than a point over five seeds, the other by eight."""
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
    assert "Teacher top-1: 49.50, no better than the student trained on labels only." in text(records)
    records += series({0: 56}, "kd", second, how={"teacher": 60})
    assert "Teacher top-1: 49.50, 60.00, 1 of them no better than the student trained on labels only." in text(records)
    assert rows(records)[PAIR, "kd"]["teacher_top1"] == 54.75
    assert "Teacher" not in text(series({0: 50}))


def test_a_gain_of_fewer_seeds_or_pairs_than_the_method_ran_on_says_so(series: Series) -> None:
    """kd ran with five seeds on each of three pairs; ce with three seeds, and on two pairs only."""
    seeds = {0: 54, 1: 55, 2: 56.5, 3: 40, 4: 41}
    records = series({0: 50, 1: 51, 2: 52}) + series(seeds, "kd", "big")
    records += series(seeds, "kd", "big", student="resnet8x0.5") + series(seeds, "clkd", "big", student="resnet8x0.5")
    records += series({0: 50}, student="resnet8") + series(seeds, "kd", "big", student="resnet8")
    said = text(records)
    assert re.search(r"\| kd \| 5 \| [^|]* \| \+4.17 ± [\d.]+ \(3 seeds\) \|", said)
    assert re.search(r"\| kd \| 5 \| [^|]* \| \+4.00[^(|]* \(1 seed\) \|", said)
    assert re.search(r"\| kd \| 3 \| \+4.08 ± [\d.]+ \(2 pairs\) \|", said)


def test_no_gain_is_taken_between_two_versions_of_a_data_set(series: Series) -> None:
    """Nor if only their training images differ. A record that does not know its version is of the one that is known."""
    old, new = {"how": {"data": "a" * 32 + " " + "t" * 32}}, {"how": {"data": "b" * 32 + " " + "t" * 32}}
    assert rows(series({0: 50}) + series({0: 57}, "kd", "big", **old))[PAIR, "kd"]["over_ce"] == 7
    records = series({0: 50}, **old) + series({0: 57}, "kd", "big", **new) + series({0: 56}, "clkd", "big", **old)
    found = {row["method"]: row for row in rows(records).values()}
    assert (found["kd"]["over_ce"], found["clkd"]["over_ce"], found["clkd"]["over_kd"]) == (None, 6, None)
    assert found["kd"]["recipe"] != found["clkd"]["recipe"]


def test_one_recipe_that_grids_wrote_in_two_ways_has_one_section_and_one_name(series: Series) -> None:
    records = series({0: 50}, protocol="custom(epochs=5)") + series({0: 57}, "kd", "big", protocol="short(epochs=5)")
    (row,) = [row for (_, method), row in rows(records).items() if method == "kd"]
    assert (row["over_ce"], row["recipe"]) == (7, "short(epochs=5)")


def test_no_gain_is_taken_between_two_trainings_of_one_teacher(series: Series) -> None:
    records = series({0: 57, 1: 58}, "kd", "big")
    records += series({0: 60, 1: 60}, "clkd", "big", how={"teacher_weights": "e" * 32})
    assert rows(records)[PAIR, "clkd"]["over_kd"] is None
    records += series({0: 57.5}, "rkd", "big")
    assert rows(records)[PAIR, "rkd"]["over_kd"] == 0.5


def test_one_seed_has_no_deviation(series: Series) -> None:
    records = series({0: 50})
    assert rows(records)["resnet8x0.25", "ce"]["std"] is None
    assert "| ce | 1 | 50.00 | 51.00 |" in text(records)  # no gain either, and no column for it
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


def test_who_stands_alone_in_its_section_comes_behind_the_pairs(series: Series) -> None:
    """Its name comes first in the alphabet, but there is nothing to compare it with."""
    records = series({0: 50}) + series({0: 51}, "kd", "big") + series({0: 60}, student="ResNet50")
    assert board_of(records).series["pair"].tolist() == [PAIR, PAIR, "ResNet50"]


def test_a_student_is_compared_under_the_same_teacher_and_counts_once_a_seed(
    make_cell: MakeCell, series: Series
) -> None:
    """With the two teacher seeds, student seed 0 gives 54 and 56 and seed 1 gives 57 and 63: means of 55 and 60. Within
    a teacher the variance is 4.5 and 24.5. The variance of the teachers' means is 8, of which the residual, 4, explains
    2. kd with another weight is a point better with each teacher."""
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
    """For example in a grid that is half done."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    found = rows(series({0: 50, 1: 51}) + series({0: 55}, "kd", first) + series({1: 58}, "kd", second))
    row = found[PAIR, "kd"]
    assert (row["n"], row["teachers"], row["over_ce"], row["std_teachers"]) == (2, 2, 6, None)


def test_ce_over_kd_is_kd_over_ce_from_the_other_side(series: Series) -> None:
    """The same interval and one test, with any other rows in the table."""
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
    table = board_of(series({0: 50}) + series({0: 60}, recipe=longer)).series
    assert sorted(table["top1"]) == [50, 60]
    assert table["recipe"].str.startswith("tiny #").all() and table["recipe"].nunique() == 2


def test_two_states_of_a_users_file_are_not_mixed(series: Series) -> None:
    old, new = {"mine.py": "00"}, {"mine.py": "11"}
    table = board_of(series({0: 50}, "rkd", "big", code=old) + series({0: 60}, "rkd", "big", code=new)).series
    assert list(table["top1"]) == [60, 50] and list(table["n"]) == [1, 1]
    assert table["method"].str.startswith("rkd #").all()


def test_methods_are_told_apart_by_their_parameters(series: Series) -> None:
    found = rows(series({0: 50}, "kd", "big") + series({0: 60}, "kd", "big", params={"temperature": 2}))
    assert found[PAIR, "kd(temperature=2.0)"]["over_kd"] == 10


def test_speeds_are_those_of_the_environment_where_most_methods_ran(series: Series) -> None:
    """A cost is that of the whole training, including the phases before the main one."""
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


def test_cells_that_took_turns_or_heard_from_memory_say_nothing_of_costs(series: Series) -> None:
    ce, kd, other = series({0: 50}), series({0: 55}, "kd", "big"), series({0: 56}, "clkd", "big")
    kd[0].cost.together, other[0].environment.arithmetic = 2, {"teacher": "remembered"}
    table = board_of(ce + kd + other).series.set_index("method")
    for cost in ("images_per_second", "seconds", "peak_memory_mb", "relative_cost"):
        assert list(table[cost].notna()) == [True, False, False]
    assert table["deployed_parameters"].notna().all()
    assert table.loc["kd", "over_ce"] == 5
    assert "Costs come from cells on here, next to whatever else ran there." in text(ce + kd + other)
    nowhere = board_of(kd).series
    assert nowhere["images_per_second"].isna().all() and "| kd | 5.0 |" in text(kd)


def test_a_speed_is_the_median_over_seeds(series: Series) -> None:
    records = [r for seed, v in enumerate((100, 800, 900)) for r in series({seed: 50}, how={"speed": v})]
    assert rows(records)["resnet8x0.25", "ce"]["images_per_second"] == 800


def test_rows_are_in_the_order_of_sources_and_the_best_comes_first(series: Series) -> None:
    records = (
        series({0: 60}, "kd", "big") + series({0: 70}) + series({0: 50}, "kd", "big", params={"weight": 1})
        + series({0: 10}, "kd+ce", "big")
    )  # fmt: skip
    assert list(board_of(records).series["method"]) == ["ce", "kd", "kd(weight=1.0)", "kd+ce"]


def test_the_order_of_records_changes_no_byte(series: Series) -> None:
    records = (
        series({seed: 50 + seed / 7 for seed in range(20)})
        + series({seed: 51 + seed / 3 for seed in range(5)}, "kd", "big")
        + series({seed: 52 + seed / 9 for seed in range(3)}, "kd", "bigger")
    )
    first = board_of(records)
    for seed in range(3):
        again = board_of(random.Random(seed).sample(records, len(records)))
        for form in (markdown, latex, as_json, lambda made: csv(made.series)):
            assert form(again) == form(first)


def test_the_page_says_what_the_markdown_says(make_cell: MakeCell, series: Series) -> None:
    """The same headings and texts; numeric cells also have the number to sort by."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    found = board_of(series({0: 50, 1: 51}) + series({0: 54, 1: 57}, "kd", first) + series({1: 63}, "kd", second))
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
    assert board_of([]).series.empty


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
