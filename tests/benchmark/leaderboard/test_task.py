"""Which runs may be compared when custom files are involved."""

from collections.abc import Callable

import msgspec
import pandas as pd
import pytest

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from tests.benchmark.leaderboard.boards import board_of

MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]
Code = dict[str, str]
Study = Callable[..., list[Record]]
Ran = Callable[[str, float, Code], Record]
PAIRS = ("resnet8x0.25", "resnet8x0.5", "resnet8", "resnet8x2")
OLD, NEW, OWN = {"my_net.py": "a" * 16}, {"my_net.py": "b" * 16}, {"my_method.py": "c" * 16}


@pytest.fixture
def ran(make_cell: MakeCell, make_record: MakeRecord) -> Ran:
    """A record of one cell, from its method, top-1 and custom files."""
    return lambda method, top1, code: make_record(
        make_cell(method, None if method == "ce" else "big", code=code), top1=top1
    )


def series(*records: Record) -> pd.DataFrame:
    return board_of(list(records)).series


def gain(*records: Record) -> float:
    """The gain of the custom method over ce."""
    return float(series(*records).set_index("method")["over_ce"]["rkd"])


def test_no_gain_is_taken_between_two_versions_of_a_network_of_ones_own(ran: Ran) -> None:
    records = [ran("ce", 50, OLD), ran("kd", 81, NEW)]
    assert series(*records)["over_ce"].isna().all()
    table = series(*records, ran("ce", 80, NEW), ran("kd", 49, OLD))
    assert table["recipe"].str.startswith("tiny #").all()
    assert sorted(table["over_ce"].dropna()) == [-1, 1]


def test_nor_between_two_versions_of_what_the_reference_itself_was_run_with(ran: Ran) -> None:
    table = series(ran("kd", 50, OLD), ran("kd", 60, NEW))
    assert sorted(table["top1"]) == [50, 60] and list(table["n"]) == [1, 1]
    assert table["recipe"].str.startswith("tiny #").all()
    assert table["over_kd"].isna().all()  # ambiguous


def test_a_method_of_ones_own_stands_beside_those_that_have_no_file(ran: Ran) -> None:
    assert gain(ran("ce", 50, {}), ran("rkd", 52, OWN)) == 2
    assert gain(ran("ce", 50, OLD), ran("rkd", 52, OLD | OWN)) == 2


def test_two_versions_of_the_data_are_two_recipes_each_with_one_name_on_all_pairs(study: Study) -> None:
    records = [
        msgspec.structs.replace(record, data=version)
        for version, students in (("a1 b1", PAIRS[:3]), ("a2 b2", PAIRS[1:]))
        for record in study({"kd": [1, 2]}, students)
    ]
    found = board_of(records)
    assert found.series.groupby("recipe")["pair"].nunique().to_dict() == {"tiny #a1-b1": 3, "tiny #a2-b2": 3}
    assert dict(zip(found.methods["recipe"], found.methods["pairs"], strict=True)) == {
        "tiny #a1-b1": 3,
        "tiny #a2-b2": 3,
    }


def test_a_seed_that_also_teaches_stays_in_its_study_and_a_teacher_alone_is_no_result(
    make_cell: MakeCell, make_record: MakeRecord
) -> None:
    study = [make_record(make_cell(student="resnet14", seed=seed), top1=60 + seed) for seed in range(3)]
    taught = make_record(make_cell("kd", study[0].cell))
    assert series(*study, taught).set_index("pair")["n"].to_dict() == {"resnet14": 3, "resnet14 → resnet8x0.25": 1}
    assert set(series(study[0], taught)["pair"]) == {"resnet14 → resnet8x0.25"}
