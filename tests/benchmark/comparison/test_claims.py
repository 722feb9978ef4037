"""Claims of papers, against verdicts computed by hand."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.comparison import claims as module
from kdbench.benchmark.comparison.claims import Claim, Row, claims, corrected, interval, report, runs_of, weigh
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store

MakeCell, MakeRecord, Command = Callable[..., Cell], Callable[..., Record], Callable[..., Any]
Series = Callable[..., list[Record]]

CLAIM = Claim(says="one is better", paper="clkd", better="clkd", worse="kd")


def weighed(claim: Claim, records: list[Record]) -> list[Row]:
    return weigh(claim, runs_of(records))


@pytest.fixture
def series(make_cell: MakeCell, make_record: MakeRecord) -> Series:
    """The records of one method, by seed."""

    def make(
        method: str, top1: list[float], teacher: str | Cell | None = "big", knows: float = 90.0, weights: str = "t",
        **asked: Any,
    ) -> list[Record]:  # fmt: skip
        cells = [make_cell(method, teacher, seed=seed, **asked) for seed in range(len(top1))]
        return [
            make_record(cell, top1=value, teacher=knows, teacher_weights=weights)
            for cell, value in zip(cells, top1, strict=True)
        ]

    return make


def test_of_one_pair_the_seeds_count_and_it_is_said(series: Series) -> None:
    """Gains of 1, 2 and 3: 2 ± 4.303 / sqrt(3)."""
    (row,) = weighed(CLAIM, series("clkd", [51, 52, 53]) + series("kd", [50, 50, 50]))
    assert (row.gain, row.half) == (2, pytest.approx(4.303 / 3**0.5, rel=1e-3))
    assert (row.unit, row.pairs, row.runs, row.verdict) == ("seeds", 1, 3, "undecided")
    assert row.note == "one pair says nothing about other pairs"


def test_a_teacher_that_knows_no_more_than_its_student_is_named(series: Series) -> None:
    records = series("clkd", [51, 52, 53], knows=50) + series("kd", [50, 50, 50], knows=50)
    assert "no better" not in weighed(CLAIM, records)[0].note  # without ce, the student alone is unknown
    assert "no better" not in weighed(CLAIM, records + series("ce", [50, 48], teacher=None))[0].note
    (row,) = weighed(CLAIM, records + series("ce", [51, 49], teacher=None))
    assert row.note.endswith("; on 1 pair the teacher is no better than the student trained on labels only")


def test_two_versions_of_a_network_of_ones_own_are_not_compared(series: Series) -> None:
    old, new = {"my_net.py": "a" * 16}, {"my_net.py": "b" * 16}
    (row,) = weighed(CLAIM, series("clkd", [51], code=old) + series("kd", [50], code=new))
    assert row.verdict == "not tested"


def test_of_several_pairs_each_counts_once(series: Series) -> None:
    """Gains of 2 and 2 on one pair, 3 on another, 2.5 on a third: 2.5 ± 4.303 · 0.5 / sqrt(3)."""
    records = series("clkd", [52, 53]) + series("kd", [50, 51])
    records += series("clkd", [53], student="resnet8x0.5") + series("kd", [50], student="resnet8x0.5")
    records += series("clkd", [52.5], teacher="bigger") + series("kd", [50], teacher="bigger")
    (row,) = weighed(CLAIM, records)
    assert (row.gain, row.half) == (2.5, pytest.approx(4.303 * 0.5 / 3**0.5, rel=1e-3))
    assert (row.unit, row.pairs, row.runs, row.verdict) == ("pairs", 3, 4, "supported")
    assert row.note == "pairs that share a teacher are not independent"
    (turned,) = weighed(msgspec.structs.replace(CLAIM, better="kd", worse="clkd"), records)
    assert (turned.gain, turned.verdict) == (-2.5, "contradicted")


def test_what_a_seed_does_to_all_pairs_alike_makes_the_interval_wide(series: Series) -> None:
    """Three pairs gain 2, 2 and 2.1 in the mean, which gives ± 0.14. By seed all gain 1, 2 and 3: ± 4.303 / sqrt(3). A
    seed that ran on one pair only moves the mean but not the interval."""
    records = series("clkd", [51, 52, 53]) + series("kd", [50, 50, 50])
    records += series("clkd", [51, 52, 53], teacher="bigger") + series("kd", [50, 50, 50], teacher="bigger")
    records += series("clkd", [51, 52, 53, 52.4], student="resnet8") + series("kd", [50] * 4, student="resnet8")
    (row,) = weighed(CLAIM, records)
    assert (row.gain, row.half) == (pytest.approx(6.1 / 3), pytest.approx(4.303 / 3**0.5, rel=1e-3))
    assert (row.unit, row.pairs, row.runs, row.verdict) == ("seeds", 3, 10, "undecided")


def test_two_pairs_are_tested_one_by_one(series: Series) -> None:
    """Over two gains as unlike as these, an interval would be ± 38."""
    records = series("clkd", [51, 51.1]) + series("kd", [50, 50])
    records += series("clkd", [57, 57.1], student="resnet8") + series("kd", [50, 50], student="resnet8")
    rows = weighed(CLAIM, records)
    assert [(row.pairs, row.pair) for row in rows] == [(1, "big → resnet8"), (1, "big → resnet8x0.25")]
    assert [row.gain for row in rows] == [pytest.approx(7.05), pytest.approx(1.05)]
    assert {(row.unit, row.runs, row.verdict) for row in rows} == {("seeds", 2, "supported")}


def test_data_sets_are_weighed_apart(series: Series) -> None:
    records = series("clkd", [52, 52]) + series("kd", [50, 51])
    records += series("clkd", [49, 48], dataset="svhn") + series("kd", [50, 50], dataset="svhn")
    rows = weighed(CLAIM, records)
    assert [(row.dataset, row.pairs, row.gain) for row in rows] == [("digits", 1, 1.5), ("svhn", 1, -1.5)]


def test_two_seeds_of_a_teacher_are_one_pair_where_a_students_seed_counts_once(
    make_cell: MakeCell, series: Series
) -> None:
    """Gains of 2 and 3 under one teacher and of 4 and 1 under the other: 3 and 2 by seed."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    records = series("clkd", [52, 53], teacher=first) + series("kd", [50, 50], teacher=first)
    records += series("clkd", [54, 51], teacher=second) + series("kd", [50, 50], teacher=second)
    (row,) = weighed(CLAIM, records)
    assert (row.unit, row.pairs, row.runs) == ("seeds", 1, 4)
    assert (row.gain, row.half) == (2.5, pytest.approx(12.706 * 0.5, rel=1e-3))


def test_over_pairs_too_a_students_seed_counts_once_under_however_many_teachers(
    make_cell: MakeCell, series: Series
) -> None:
    """On each pair, seeds gain 4 (twice, by teachers with gains of 6 and 2) and 1: 2.5, and not 3."""
    first, second = (make_cell(student="big", seed=seed) for seed in (0, 1))
    records = []
    for student in ("resnet8", "resnet8x0.25", "resnet8x0.5"):
        for teacher, top1 in (first, [56, 51]), (second, [52]):
            records += series("clkd", top1, teacher=teacher, student=student)
            records += series("kd", [50] * len(top1), teacher=teacher, student=student)
    (row,) = weighed(CLAIM, records)
    assert (row.pairs, row.runs, row.gain) == (3, 9, 2.5)


def test_pairs_on_two_versions_of_the_data_are_two_fields(series: Series) -> None:
    records = [
        msgspec.structs.replace(record, data=version)
        for version in ("a1 b1", "a2 b2")
        for student in ("resnet8", "resnet8x0.25")
        for record in series("clkd", [52], student=student) + series("kd", [50], student=student)
    ]
    rows = weighed(CLAIM, records)
    assert [(row.recipe, row.pairs) for row in rows] == [("tiny #a1-b1", 1)] * 2 + [("tiny #a2-b2", 1)] * 2


def test_only_the_same_seed_of_the_same_teacher_is_compared(series: Series) -> None:
    assert weighed(CLAIM, series("clkd", [50]) + series("kd", [50, 51])[1:])[0].verdict == "not tested"
    assert weighed(CLAIM, series("clkd", [50]) + series("kd", [50], teacher="bigger"))[0].verdict == "not tested"
    trained_again = series("kd", [50], weights="e" * 32)
    assert weighed(CLAIM, series("clkd", [50]) + trained_again)[0].verdict == "not tested"
    (row,) = weighed(CLAIM, series("clkd", [50, 51, 52]) + series("kd", [49]))
    assert (row.runs, row.gain, row.half, row.verdict) == (1, 1, None, "undecided")


def test_a_recipe_is_evidence_of_its_own_and_another_than_the_papers_is_marked(series: Series) -> None:
    claim = msgspec.structs.replace(CLAIM, recipe="tiny")
    short = {"recipe": msgspec.structs.replace(series("kd", [0])[0].cell.recipe, epochs=1), "protocol": "short"}
    records = series("clkd", [51, 51.1]) + series("kd", [50, 50])
    records += series("clkd", [40, 40], **short) + series("kd", [50, 50.1], **short)
    rows = {row.recipe: row for row in weighed(claim, records)}
    assert rows["tiny"].verdict == "supported"
    assert rows["short"].verdict == "contradicted" and rows["short"].note.startswith("the paper's recipe is tiny;")


def test_of_several_forms_one_counts_the_one_of_most_pairs_and_else_the_first(series: Series) -> None:
    cold = {"params": {"temperature": 2}}
    claim = msgspec.structs.replace(CLAIM, worse=[{"kd": {"temperature": 2}}, "kd"])
    records = series("clkd", [52]) + series("kd", [50])
    assert weighed(claim, records)[0].gain == 2
    assert weighed(claim, records + series("kd", [10], params={"temperature": 8}))[0].gain == 2
    records += series("kd", [51.5], **cold)
    (row,) = weighed(claim, records)
    assert (row.gain, row.worse) == (0.5, "kd(temperature=2.0)")
    for student in ("resnet8x0.5", "resnet8"):
        records += series("clkd", [53], student=student) + series("kd", [50], student=student)
    (row,) = weighed(claim, records)
    assert (row.gain, row.pairs, row.worse) == (pytest.approx(8 / 3), 3, "kd")  # of two methods, so 0.5 is not in it


def test_that_a_gain_grows_with_the_width_is_a_slope(series: Series) -> None:
    """Embeddings of 16, 32 and 64: the gain of seed 0 grows by 1 with each doubling, that of seed 1 by 1.2."""
    claim = msgspec.structs.replace(CLAIM, grows_with="embedding width")
    records = []
    for place, student in enumerate(("resnet8x0.25", "resnet8x0.5", "resnet8")):
        records += series("clkd", [40 + place, 41 + 1.2 * place], student=student)
        records += series("kd", [50, 50], student=student)
    (row,) = weighed(claim, records)
    assert (row.gain, row.half) == (pytest.approx(1.1), pytest.approx(12.706 * 0.1, rel=1e-3))
    assert (row.verdict, row.note.rpartition("; ")[2]) == ("undecided", "1 teacher")
    alone = series("clkd", [90], teacher="bigger") + series("kd", [50], teacher="bigger")  # at one width
    assert weighed(claim, records + alone) == [row]
    assert weighed(claim, [r for r in records if r.cell.student != "resnet8"])[0].verdict == "not tested"
    flat = msgspec.structs.replace(claim, students=["resnet8"])
    assert weighed(flat, records)[0].verdict == "not tested"


def test_a_width_that_cannot_be_known_here_is_left_out(series: Series) -> None:
    """The records may be somebody else's, of a data set that no file here brings."""
    claim = msgspec.structs.replace(CLAIM, grows_with="embedding width")
    records = []
    for student in ("resnet8x0.25", "resnet8x0.5", "resnet8"):
        for method, top1 in (("clkd", 51), ("kd", 50)):
            records += series(method, [top1], student=student, dataset="theirs")
    assert [row.verdict for row in weighed(claim, records)] == ["not tested"]


def test_what_nothing_of_ours_can_test_says_why(series: Series) -> None:
    (row,) = weighed(msgspec.structs.replace(CLAIM, lacks="no scale"), series("clkd", [51]) + series("kd", [50]))
    assert (row.verdict, row.note) == ("not tested", "no scale")
    minded = msgspec.structs.replace(CLAIM, mind="by half")
    (row,) = weighed(minded, series("clkd", [51]) + series("kd", [50]))
    assert row.note == "by half; one pair says nothing about other pairs"
    assert weighed(msgspec.structs.replace(CLAIM, grid="clkd"), [])[0].note.endswith("run the grid clkd")


def test_of_one_gain_and_of_gains_that_agree_by_chance_there_is_no_interval(series: Series) -> None:
    assert interval([3.0]) == (3.0, None, None)
    (row,) = weighed(CLAIM, series("clkd", [52.3, 53.2]) + series("kd", [51.9, 52.8]))
    assert (row.gain, row.half, row.verdict) == (pytest.approx(0.4), None, "undecided")


def test_among_many_claims_an_interval_beside_zero_is_too_little(series: Series) -> None:
    """For three tests, Holm multiplies the smallest p by three and the next by two: 0.003, 0.06 and 0.5."""
    (tested,) = weighed(CLAIM, series("clkd", [51, 52, 53]) + series("kd", [50, 50, 50]))
    untested = replace(tested, p=None, half=None, verdict="not tested")
    ps = [(0.03, -1.0), (0.001, 1.0), (0.5, 1.0)]
    found = corrected([untested, *(replace(tested, p=p, gain=gain) for p, gain in ps)])
    assert [row.verdict for row in found] == ["not tested", "leans against it", "supported", "undecided"]
    assert [row.p for row in found] == [None, pytest.approx(0.06), pytest.approx(0.003), 0.5]


def test_the_order_of_records_changes_no_byte(series: Series) -> None:
    records = series("clkd", [51, 52, 52.7]) + series("kd", [50, 51, 50.3]) + series("blockwise", [51, 50, 53])
    first = report(records)
    for seed in range(3):
        again = report(random.Random(seed).sample(records, len(records)))
        assert (again.markdown(), again.csv()) == (first.markdown(), first.csv())


def test_a_record_is_looked_at_once_for_all_claims(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    records, places = series("clkd", [51, 52]) + series("kd", [50, 50]), list[str]()
    place = module._place
    monkeypatch.setattr(module, "_place", lambda record, tasks: (places.append(record.id), place(record, tasks))[1])
    report(records)
    assert sorted(places) == sorted(record.id for record in records)


def test_the_verb_says_of_every_claim_what_the_records_say(kdbench: Command, tmp_path: Path, series: Series) -> None:
    for record in series("clkd", [51, 51.1]) + series("kd", [50, 50]):
        Store(tmp_path).finish(record)
    answer = kdbench("reproduce", "claims", "--results", tmp_path)
    assert answer.code == 0 and answer.out == (tmp_path / "reproduce-claims.md").read_text() + "\n"
    rows = json.loads(kdbench("reproduce", "claims", "--json", "--results", tmp_path).out)
    assert [row["claim"] for row in rows] == [claim.says for claim in claims()]
    verdicts = {row["claim"]: row["verdict"] for row in rows}
    assert verdicts.pop("Class-aware logits teach more than logits") == "supported"
    assert set(verdicts.values()) == {"not tested"}
