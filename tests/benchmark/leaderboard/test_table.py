"""The table, against numbers that were worked out by hand."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.leaderboard.publish import publish
from kdbench.benchmark.leaderboard.table import csv, leaderboard, markdown, source

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
    text = re.sub(" +", " ", markdown(leaderboard(alone + sure + unsure)))
    assert "| kd | 5 | 55.00 ± 0.35 | +5.00 ± 0.44 ★ |" in text
    assert "| kd(weight=1.0) | 5 | 55.00 ± 8.63 | +5.00 ± 10.72 |" in text


def test_without_a_reference_there_is_no_gain(series: Series) -> None:
    row = rows(series({0: 57}, "kd", "big", params={"weight": 1}))[PAIR, "kd(weight=1.0)"]
    assert (row["over_ce"], row["over_kd"]) == (None, None)


def test_one_seed_has_no_deviation(series: Series) -> None:
    records = series({0: 50})
    assert rows(records)["resnet8x0.25", "ce"]["std"] is None
    assert "|   50.00 |" in markdown(leaderboard(records))
    assert "±" not in markdown(leaderboard(records)).partition("## ")[2]


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


def test_two_seeds_of_a_teacher_are_not_mixed(make_cell: MakeCell, series: Series) -> None:
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
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
    table = leaderboard(series({0: 50}, "kd", "big", code=old) + series({0: 60}, "kd", "big", code=new))
    assert list(table["top1"]) == [60, 50] and list(table["n"]) == [1, 1]
    assert table["method"].str.startswith("kd #").all()
    assert table["over_kd"].isna().all()  # which of them would be meant?


def test_methods_are_told_apart_by_their_parameters(series: Series) -> None:
    found = rows(series({0: 50}, "kd", "big") + series({0: 60}, "kd", "big", params={"temperature": 2}))
    assert found[PAIR, "kd(temperature=2.0)"]["over_kd"] == 10


def test_speeds_of_two_environments_are_not_compared(series: Series) -> None:
    ce, kd = series({0: 50, 1: 50, 2: 50}, how={"speed": 900}), series({0: 55}, "kd", "big", how={"speed": 700})
    assert [row["images_per_second"] for row in rows(ce + kd).values()] == [900, 700]
    far = series({1: 55}, "kd", "big", how={"speed": 9000, "environment": "there"})
    assert [row["images_per_second"] for row in rows(ce + kd + far).values()] == [None, None]
    assert rows(ce + kd + far)[PAIR, "kd"]["n"] == 2  # accuracies are


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
    first = leaderboard(records)
    for seed in range(5):
        table = leaderboard(random.Random(seed).sample(records, len(records)))
        assert table.to_json(double_precision=15) == first.to_json(double_precision=15)
        assert (markdown(table), csv(table)) == (markdown(first), csv(first))


def test_the_files_are_those_of_the_records_and_stay_the_same(tmp_path: Path, series: Series) -> None:
    for record in series({0: 50, 1: 52}) + series({0: 54, 1: 58}, "kd", "big"):
        Store(tmp_path).finish(record)
    board = publish(tmp_path, None)
    written = (tmp_path / "leaderboard.md").read_bytes(), (tmp_path / "leaderboard.csv").read_bytes()
    assert board.text.encode() == written[0] and board.troubles == []
    publish(tmp_path, None)
    assert ((tmp_path / "leaderboard.md").read_bytes(), (tmp_path / "leaderboard.csv").read_bytes()) == written
    assert f"## digits · {PAIR} · tiny" in board.text
    assert "| logits | kd | 2 | 56.00 ± 2.83 | +5.00 ± 12.71 | – | 57.00 | 1,000 |" in re.sub(" +", " ", board.text)
    read = pd.read_csv(tmp_path / "leaderboard.csv")
    assert list(read["top1"]) == [51, 56] and list(read["n"]) == [2, 2]


def test_rows_for_scripts_have_nothing_where_there_is_no_number(tmp_path: Path, series: Series) -> None:
    Store(tmp_path).finish(series({0: 50})[0])
    (row,) = publish(tmp_path, None).rows
    assert (row["top1"], row["std"], row["over_kd"]) == (50, None, None)


def test_no_records_are_an_empty_table() -> None:
    assert leaderboard([]).empty


@pytest.mark.parametrize(("method", "expected"), [("ce", "labels"), ("kd+ce", "logits+labels"), ("gone", "other")])
def test_a_source_is_that_of_all_members(method: str, expected: str) -> None:
    assert source(method) == expected
