"""Methods over pairs, and intervals that use other pairs, against numbers computed by hand."""

from collections.abc import Callable

import msgspec
import pandas as pd
import pytest
from scipy import stats

from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.table import board
from kdbench.benchmark.records.record import Brief, Record
from tests.benchmark.leaderboard.boards import PAIR, board_of, rows, text

Series = Study = Callable[..., list[Record]]


@pytest.fixture
def eight(series: Series) -> list[Record]:
    """Eight pairs: kd gains 1 to 8 points. With another weight it loses as much on seven and has no run on the last."""
    records = []
    for place in range(8):
        alone = {"student": "resnet8", "teacher": f"big{place}"}
        records += series({0: 50, 1: 52}, student="resnet8") if place == 0 else []
        records += series({0: 51 + place, 1: 53 + place}, "kd", **alone)
        if place < 7:
            records += series({0: 49 - place, 1: 51 - place}, "kd", params={"weight": 1}, **alone)
    return records


def test_over_pairs_a_pair_is_the_unit(eight: list[Record], series: Series) -> None:
    """The mean of 1 to 8 is 4.5 and the deviation sqrt(6), for any seeds. All eight have one sign: p is 2 / 2^8, and
    three times that after Holm, because three gains are tested. Seven of seven give 2 / 2^7 in both columns."""
    eight += series({0: 40}, student="lonely")  # a student without a teacher is not a pair
    table = board_of(eight).methods.set_index("method")
    kd, other = table.loc["kd"], table.loc["kd(weight=1.0)"]
    assert (kd["pairs"], kd["over_ce"], kd["over_kd_p"]) == (8, 4.5, pytest.approx(float("nan"), nan_ok=True))
    assert kd["over_ce_half"] == pytest.approx(stats.t.ppf(0.975, 7) * 6**0.5 / 8**0.5)
    assert (kd["over_ce_p"], other["over_ce_p"]) == (3 * 2 / 2**8, 2 * 2 / 2**7)
    assert table.loc["ce", "over_kd_p"] == kd["over_ce_p"]
    assert (other["pairs"], other["over_ce"], other["over_kd"]) == (7, -4, -8)
    # ce and kd ran on every pair, and kd is better on all. A method that did not run on every pair has no rank.
    assert (kd["rank"], table.loc["ce", "rank"]) == (1, 2)
    assert pd.isna(other["rank"])


def test_what_a_seed_does_to_all_pairs_alike_shows_where_the_seed_is_the_unit(
    study: Callable[..., list[Record]],
) -> None:
    """kd gains 1, 2 and 6 on one pair and a point more on each further one: 3, 4 and 5 by pair; 2, 3 and 7 by seed."""
    pairs = ("resnet8x0.25", "resnet8x0.5", "resnet8")
    records = study({"kd": [1, 2, 6]}, students=pairs)
    (row,) = board_of(records).methods.query("method == 'kd'").to_dict("records")
    assert row["over_ce"] == 4 and row["over_ce_half"] == pytest.approx(stats.t.ppf(0.975, 2) / 3**0.5)
    assert row["over_ce_half_seeds"] == pytest.approx(stats.t.ppf(0.975, 2) * 7**0.5 / 3**0.5)
    less = board_of(records[:-1])  # the last seed is not on all pairs
    (row,) = less.methods.query("method == 'kd'").to_dict("records")
    assert row["over_ce_half_seeds"] == pytest.approx(stats.t.ppf(0.975, 1) / 2)


def test_ways_for_classes_to_arrive_lend_one_another_no_scatter(study: Callable[..., list[Record]]) -> None:
    """Two pairs of one field would."""
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
    said = "pairs are too few: with so many gains, a test over pairs finds nothing below 7 pairs."
    for pairs, silent in ((6, True), (7, False)):
        records = [
            record for record in eight if record.cell.teacher is None or record.cell.teacher.student[-1] < str(pairs)
        ]
        assert board_of(records).methods["over_ce_p"].isna().all() == silent
        assert (f"{pairs} {said}" in text(records), "p(ce)" in text(records)) == (silent, not silent)


def test_over_pairs_stands_who_ran_on_two_or_more(eight: list[Record], series: Series) -> None:
    once = series({0: 90}, "clkd", "big0", student="resnet8")
    assert list(board_of(eight + once).methods["method"]) == ["ce", "kd", "kd(weight=1.0)"]


def test_methods_over_pairs_come_first_and_only_where_there_are_several(eight: list[Record], series: Series) -> None:
    titles = [line for line in text(eight).splitlines() if line.startswith("## ")]
    assert titles[0] == "## methods over pairs · digits · tiny" and len(titles) == 9
    assert "over pairs ·" not in text(series({0: 50}) + series({0: 51}, "kd", "big"))


def test_an_interval_on_one_pair_draws_on_the_scatter_of_all(series: Series) -> None:
    """Gains of 1 and 3 on one pair, 4 and 8 on the other: variances 2 and 8, pooled 5 with two degrees of freedom."""
    alone = series({0: 50, 1: 50})
    records = alone + series({0: 51, 1: 53}, "kd", "big") + series({0: 54, 1: 58}, "kd", "bigger")
    halves = [row["over_ce_half"] for (_, method), row in rows(records).items() if method == "kd"]
    assert halves == pytest.approx([stats.t.ppf(0.975, 2) * 5**0.5 / 2**0.5] * 2)


def test_the_correlation_within_seeds_is_that_about_each_pairs_mean(series: Series) -> None:
    ce, kd = {0: 50, 1: 52, 2: 57}, {0: 60, 1: 58, 2: 65}
    found = rows(series(ce) + series(kd, "kd", "big"))
    assert found[PAIR, "kd"]["correlation"] == pytest.approx(stats.pearsonr(list(ce.values()), list(kd.values()))[0])
    shifted = series({seed: top1 + 9 for seed, top1 in kd.items()}, "kd", "bigger")
    shifted += series({seed: top1 - 5 for seed, top1 in kd.items()}, "kd", "resnet8x4")
    both = board_of(series(ce) + series(kd, "kd", "big") + shifted).methods.set_index("method")
    assert both.loc["kd", "correlation"] == pytest.approx(found[PAIR, "kd"]["correlation"])
    two = rows(series(ce) + series({0: 60, 1: 58}, "kd", "big"))  # two points are always on a line
    assert two[PAIR, "kd"]["correlation"] is None


def test_over_pairs_times_are_of_methods_that_were_timed_on_the_same_pairs(series: Series) -> None:
    records = []
    timed = {"resnet8": (4, 8, 4), "resnet8x0.5": (25, 100, 25), "resnet8x4": (5, 10, 5), "resnet8x2": (60, 60, 0)}
    for student, (ce, kd, clkd) in timed.items():
        records += series({0: 50}, student=student, how={"seconds": ce})
        records += series({0: 55}, "kd", "big", student=student, how={"seconds": kd})
        records += series({0: 55}, "clkd", "big", student=student, how={"seconds": clkd}) if clkd else []
    table = board_of(records).methods.set_index("method")
    assert table["relative_cost"].round(9).fillna(0).to_dict() == {"ce": 1, "kd": 2, "clkd": 0}


def test_where_nobody_is_called_kd_or_ce_there_is_a_table_all_the_same(study: Study) -> None:
    """For example in a grid with other weights of KD."""
    records = study({"rkd": [1, 2]}, ("resnet8x0.25", "resnet8"))
    assert "## digits · " in text(records)
    assert "rkd" in text([record for record in records if record.cell.method != "ce"])
