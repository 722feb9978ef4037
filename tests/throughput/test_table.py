"""The page of tables, against numbers computed by hand."""

from kdbench.benchmark.throughput.table import page, pages
from tests.throughput.conftest import MakeThroughput, pace


def rows(text: str) -> list[list[str]]:
    return [[word.strip() for word in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_row_says_what_was_measured_and_the_cheapest_of_a_source_comes_first(make: MakeThroughput) -> None:
    """An image has 4 views, so 4 of its 240 answers are computed: (4 · 8 + 236 · 3) / 240."""
    crd = make("crd", live=pace(200), cold=pace(125), remembered=pace(1000 / 3), views=4, method_parameters=12_800_000)
    table = rows(page([crd, make("dkd", live=pace(400)), make(live=pace(500)), make("ce")]))[2:]
    assert [row[1:10] for row in table] == [
        ["ce", "1.00", "–", "–", "–", "–", "1,000", "64.0", "900 MB"],
        ["kd", "2.00", "–", "–", "–", "–", "500", "128.0", "900 MB"],
        ["dkd", "2.50", "–", "–", "–", "–", "400", "160.0", "900 MB"],
        ["crd", "5.00", "8.00", "3.00", "3.08", "–", "200", "320.0", "900 MB"],
    ]
    assert table[-1][10:] == ["12,800,000", "25%"]


def test_phases_before_the_main_one_have_a_column_of_their_own(make: MakeThroughput) -> None:
    table = rows(page([make("ce"), make("ab", live=pace(1000), initial=0.25)]))[2:]
    assert [row[1:7] for row in table] == [["ce", "1.00", *"––––"], ["ab", "1.00", *"–––", "0.25"]]


def test_the_labels_stand_beside_every_teacher_and_alone_where_there_is_none(make: MakeThroughput) -> None:
    text = page([make("ce"), make(), make(id="b", teacher="bigger"), make("ce", id="c", student="other")])
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert [head.split(" · ")[1] for head in heads] == ["big → small", "bigger → small", "other"]
    assert [row[1] for row in rows(text)[2:] if row[1] in ("ce", "kd")] == ["ce", "kd", "ce", "kd", "ce"]


def test_other_precisions_and_recipes_have_tables_of_their_own(make: MakeThroughput) -> None:
    text = page([make("ce"), make(), make("ce", id="d", precision="bf16"), make(id="e", recipe="quick")])
    heads = [line.split(" · ", 2)[2] for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["cifar-240 · batch 64 · bf16", "cifar-240 · batch 64 · fp32", "quick · batch 64 · fp32"]


def test_a_share_is_of_the_best_rate_that_the_environment_ever_showed(make: MakeThroughput) -> None:
    """In the same precision: the only one of bf16, and the 0.2 TFLOP/s of fp32, measured once."""
    text = page([make("ce", peak_tflops=0.1), make(peak_tflops=0.2), make(id="e", precision="bf16", peak_tflops=0.5)])
    assert [row[-1] for row in rows(text) if row[1] in ("ce", "kd")] == ["10%", "25%", "25%"]
    assert "Peak: 0.5 TFLOP/s in bf16, 0.2 TFLOP/s in fp32." in text


def test_the_page_depends_on_the_records_alone(make: MakeThroughput) -> None:
    kept = [make("ce"), make(), make("crd"), make("fitnet", teacher="bigger")]
    assert page(kept) == page(kept[::-1])


def test_environments_have_pages_of_their_own(make: MakeThroughput) -> None:
    here, there = [make("ce"), make()], [make("ce", environment="there")]
    assert pages(here + there) == {"here": page(here), "there": page(there)}
