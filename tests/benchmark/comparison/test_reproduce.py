"""Published figures next to ours, against verdicts computed by hand."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.comparison import incremental
from kdbench.benchmark.comparison.published import paper, papers
from kdbench.benchmark.comparison.reproduce import Row, cells_of, compare, judged, report, tables
from kdbench.benchmark.incremental.setting import Incremental
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.plans.parameters import complete
from kdbench.benchmark.records import imported
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.outline import Outline
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.training.recipe import RECIPES
from kdbench.refusal import Refusal

MakeRecord, Command = Callable[..., Record], Callable[..., Any]


# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_where_both_spreads_are_known_both_are_used() -> None:
    """Deviations of 0.2 over three runs each: 2.776 · 0.2 · sqrt(2 / 3) with four degrees of freedom."""
    half, verdict = judged(70.0, 0.2, 3, [70.0, 70.2, 70.4])
    assert half == pytest.approx(2.776 * 0.2 * (2 / 3) ** 0.5, rel=1e-3)
    assert verdict == "reproduced"
    assert judged(69.7, 0.2, 3, [70.0, 70.2, 70.4])[1] == "ours is higher"
    assert judged(70.7, 0.2, 3, [70.0, 70.2, 70.4])[1] == "ours is lower"


def test_where_theirs_is_one_run_our_spread_stands_for_both() -> None:
    """4.303 · 0.2 · sqrt(1 / 3 + 1); for five runs of theirs, sqrt(1 / 3 + 1 / 5)."""
    half, verdict = judged(70.0, None, 1, [70.0, 70.2, 70.4])
    assert (half, verdict) == (pytest.approx(4.303 * 0.2 * (4 / 3) ** 0.5, rel=1e-3), "reproduced")
    assert judged(70.0, None, 5, [70.0, 70.2, 70.4])[0] == pytest.approx(4.303 * 0.2 * (8 / 15) ** 0.5, rel=1e-3)


def test_where_their_runs_are_not_stated_a_verdict_holds_for_one_and_for_ten() -> None:
    """Half of the interval is 0.99 for one run and 0.57 for ten: 0.7 is within the first only."""
    ours = [70.0, 70.2, 70.4]
    assert judged(69.7, None, None, ours) == judged(69.7, None, 1, ours)
    assert judged(69.7, None, None, ours)[1] == "reproduced"
    assert judged(69.1, None, None, ours)[1] == "ours is higher"
    assert (judged(69.5, None, 1, ours)[1], judged(69.5, None, 10, ours)[1]) == ("reproduced", "ours is higher")
    half, verdict = judged(69.5, None, None, ours)
    assert half == judged(69.5, None, 1, ours)[0] and verdict.startswith("cannot say: it depends on how many runs")
    assert judged(70.0, None, None, [70.0])[1] == "cannot say: neither our spread nor theirs is known"
    half, verdict = judged(68.5, 0.3, None, ours)  # a spread needs at least two runs
    assert half == judged(68.5, 0.3, 2, ours)[0] and verdict == "ours is higher"


def test_where_ours_is_one_seed_their_spread_stands_for_both() -> None:
    half, verdict = judged(70.0, 0.2, 3, [70.5])
    assert (half, verdict) == (pytest.approx(4.303 * 0.2 * (4 / 3) ** 0.5, rel=1e-3), "reproduced")


def test_without_any_spread_and_with_too_much_of_it_nothing_can_be_said() -> None:
    assert judged(70.0, None, 1, [70.0]) == (None, "cannot say: neither our spread nor theirs is known")
    assert judged(70.0, None, 1, [69.0, 71.0])[1] == "cannot say: the interval is wider than ± 1"


def test_a_spread_of_zero_is_not_known() -> None:
    """9.2 ± 0.0 is rounded, and two seeds may agree by chance: neither proves that 9.3 is higher."""
    assert judged(9.2, 0.0, 3, [9.3])[0] is None
    assert judged(9.2, None, 1, [9.3, 9.3])[0] is None
    assert judged(9.2, 0.0, 3, [9.2, 9.3, 9.4]) == judged(9.2, None, 3, [9.2, 9.3, 9.4])


# -- theirs next to ours ----------------------------------------------------------------------------------------------


@pytest.fixture
def ran(make_record: MakeRecord) -> Callable[..., list[Record]]:
    """Records of the cells of a paper's table, for one pair and method, with top-1 by seed."""

    def run(name: str, pair: str, method: str, top1: list[float], **other: Any) -> list[Record]:
        cells = cells_of(name, paper(name), len(top1)).cells
        chosen = [c for c in cells if (c.pair, c.method) == (pair, method)]
        return [
            make_record(msgspec.structs.replace(c, **other), top1=value) for c, value in zip(chosen, top1, strict=True)
        ]

    return run


Ran = Callable[..., list[Record]]
SMALL = "resnet56 → resnet20"


def row(name: str, records: list[Record], method: str, pair: str = SMALL) -> Row:
    rows = compare(name, paper(name), records)
    (found,) = [r for r in rows if (r.method, r.pair) == (method, pair)]
    return found


def test_a_best_epoch_stands_beside_our_best_epoch_and_a_last_one_beside_our_last(ran: Ran) -> None:
    """The best epoch of these records is a point better. DKD's table has best epochs, CRD's has last epochs."""
    best = row("dkd", ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1]), "DKD")
    assert (best.theirs, best.epoch, best.ours, best.n) == (71.97, "best epoch", pytest.approx(72.0), 3)
    assert (best.difference, best.verdict) == (pytest.approx(0.03), "reproduced")
    last = row("crd", ran("crd", SMALL, "kd", [70.6, 70.7, 70.8]), "KD")
    assert (last.theirs, last.epoch, last.ours) == (70.66, "last epoch", pytest.approx(70.7))


@pytest.mark.parametrize("name", ["dkd", "logit-standardization"])
def test_a_figure_of_crd_in_a_younger_table_stands_beside_our_last_epoch(name: str, ran: Ran) -> None:
    found = row(name, ran(name, SMALL, "kd", [70.6, 70.7, 70.8]), "KD")
    assert (found.theirs, found.epoch, found.their_runs) == (70.66, "last epoch", "")
    assert (found.ours, found.verdict) == (pytest.approx(70.7), "reproduced")


def test_where_the_epoch_is_not_stated_it_must_not_decide(ran: Ran) -> None:
    """Theirs is 78.08. A last epoch of 78.1 reproduces it, a best one of 79.1 does not. 60 and 61 are both lower."""
    asked = {"name": "simkd", "method": "SimKD f=2", "pair": "resnet32x4 → resnet8x4"}
    hangs = row(records=ran("simkd", asked["pair"], "simkd", [78.08, 78.1, 78.12]), **asked)
    assert hangs.verdict.startswith("cannot say: it depends on")
    assert row(records=ran("simkd", asked["pair"], "simkd", [59.9, 60.0, 60.1]), **asked).verdict == "ours is lower"


def test_another_recipe_has_no_verdict(ran: Ran) -> None:
    short = RECIPES["cifar-short"].for_network("resnet20")
    found = row("dkd", ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1], recipe=short, protocol="cifar-short"), "DKD")
    assert (found.verdict, found.half, found.n) == ("other protocol: cifar-short", None, 3)


def test_other_parameters_have_no_verdict(ran: Ran) -> None:
    """The paper's beta is 2 for this pair, and our default is 8."""
    eight = next(c.params for c in load("standard-table").cells if c.method == "dkd")
    found = row("dkd", ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1], params=eight), "DKD")
    assert found.verdict == "other protocol: dkd"


def test_another_number_of_processes_has_no_verdict(ran: Ran) -> None:
    found = row("dkd", ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1], world=2), "DKD")
    assert found.verdict == "other protocol: trained by 2 processes together"


def test_a_teacher_trained_in_another_way_has_no_verdict_and_an_imported_one_has(ran: Ran) -> None:
    (record, *_) = ran("dkd", SMALL, "dkd", [71.0])
    short = msgspec.structs.replace(record.cell.teacher, recipe=RECIPES["cifar-short"])
    told = row("dkd", ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1], teacher=short), "DKD").verdict
    assert told == "other protocol: its teacher was trained differently"
    theirs = imported.cell("cifar100", "resnet56@0123456789ab")
    records = ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1], teacher=theirs)
    assert row("dkd", records, "DKD").verdict == "reproduced"
    assert "imported teacher is taken for the paper's" in report("dkd", paper("dkd"), records).markdown()


def test_figures_of_another_protocol_never_have_a_verdict(ran: Ran) -> None:
    rows = compare("clkd", paper("clkd"), ran("clkd", SMALL, "clkd", [65.7, 65.74, 65.8]))
    (found,) = [r for r in rows if r.n]
    assert found.verdict.startswith("other protocol: the figures are a third party's")
    reviewed = row("itrd", ran("itrd", SMALL, "reviewkd", [71.88, 71.9, 71.92]), "ReviewKD")
    assert reviewed.verdict.startswith("other protocol: ReviewKD's figures are those of its authors")


def test_students_alone_are_those_of_every_teacher(ran: Ran, make_record: MakeRecord) -> None:
    alone = [c for c in load("standard-table").cells if (c.student, c.method) == ("resnet20", "ce")][:3]
    found = row("crd", [make_record(c, top1=69.0 + c.seed / 10) for c in alone], "ce", pair="resnet20")
    assert (found.theirs, found.n, found.verdict) == (69.06, 3, "reproduced")


def test_students_of_two_trainings_of_a_teacher_are_not_averaged(ran: Ran) -> None:
    records = ran("dkd", SMALL, "dkd", [50.0, 50.1, 70.9, 71.1])
    for outdated in records[:2]:
        outdated.result.teacher_weights = "o" * 32
    found = [r for r in compare("dkd", paper("dkd"), records) if (r.method, r.pair) == ("DKD", SMALL)]
    assert sorted((r.n, round(r.ours or 0, 2)) for r in found) == [(2, 51.05), (2, 72.0)]  # best epochs


def test_nor_are_runs_on_two_versions_of_the_data(ran: Ran) -> None:
    records = ran("dkd", SMALL, "dkd", [50.0, 50.1, 70.9, 71.1])
    for number, record in enumerate(records):
        record.data = "old" if number < 2 else "new"
    found = [r for r in compare("dkd", paper("dkd"), records) if (r.method, r.pair) == ("DKD", SMALL)]
    assert sorted(r.n for r in found) == [2, 2]


def test_what_was_not_run_and_what_we_do_not_have_is_said() -> None:
    assert {r.verdict for r in compare("dkd", paper("dkd"), [])} == {"not run"}
    assert row("itrd", [], "ITRD").verdict == "no cell of ours"
    assert {r.verdict for r in compare("dot", paper("dot"), [])} == {"no cell of ours"}


def test_a_table_needs_the_cells_that_its_figures_speak_of(make_record: MakeRecord) -> None:
    grid = cells_of("dkd", paper("dkd"), seeds=2)
    assert len(grid.cells) == 11 * 2 * 2
    betas = {(c.teacher.student, c.student): c.params["beta"] for c in grid.cells if c.method == "dkd" and c.teacher}
    assert (betas["resnet56", "resnet20"], betas["vgg13", "vgg8"], betas["resnet32x4", "ShuffleV1"]) == (2, 6, 8)
    assert {c.id for c in grid.cells} <= {c.id for c in load("dkd-table").cells}
    done = {c.id: Outline.of(make_record(c)) for c in grid.cells}
    (dkd,) = [entry for entry in tables(done) if entry["name"] == "dkd"]
    assert (dkd["pairs"], dkd["methods"], dkd["cells"], dkd["finished"]) == (11, 2, 11 * 2 * 5 + 6, 44)
    assert dkd["hours"] is None  # the time of a teacher is unknown
    first = next(one for one in done.values() if one.teacher)
    teacher = next(cell.teacher for cell in grid.cells if cell.teacher and cell.teacher.id == first.teacher)
    done[teacher.id] = Outline.of(make_record(teacher, weights="others"))
    (dkd,) = [entry for entry in tables(done) if entry["name"] == "dkd"]
    assert dkd["finished"] == 45 - sum(one.teacher == teacher.id for one in done.values())  # they are outdated
    with pytest.raises(Refusal, match="dot: no grid ships for it yet"):
        cells_of("dot", paper("dot"))


def test_the_order_of_records_changes_no_byte(ran: Ran) -> None:
    records = ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.3]) + ran("dkd", SMALL, "kd", [70.1, 70.2])
    first = report("dkd", paper("dkd"), records)
    for seed in range(3):
        again = report("dkd", paper("dkd"), random.Random(seed).sample(records, len(records)))
        assert (again.markdown(), again.csv()) == (first.markdown(), first.csv())


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes_the_table(kdbench: Command, tmp_path: Path, ran: Ran) -> None:
    for record in ran("dkd", SMALL, "dkd", [70.9, 71.0, 71.1]):
        Store(tmp_path).finish(record)
    answer = kdbench("reproduce", "dkd", "--results", tmp_path)
    assert answer.code == 0 and "reproduced" in answer.out and "1 reproduced" in answer.out
    written = (tmp_path / "reproduce-dkd.md").read_text()
    assert answer.out == written + "\n"
    rows = json.loads(kdbench("reproduce", "dkd", "--json", "--results", tmp_path).out)
    assert len(rows) == 22 and [r["n"] for r in rows if r["n"]] == [3]
    assert (tmp_path / "reproduce-dkd.md").read_text() == written
    assert (tmp_path / "reproduce-dkd.csv").read_text().count("\n") == 23


def test_the_list_has_every_paper_and_the_rest(kdbench: Command, tmp_path: Path) -> None:
    answer = kdbench("reproduce", "list", "--results", tmp_path)
    assert answer.code == 0
    assert all(f"\n{name}: {known.paper}" in answer.out for name, known in papers().items())
    assert "could not be read" in answer.out


@pytest.mark.parametrize("where", ["local", "site"])
def test_what_is_missing_is_run_or_sent(
    where: str, kdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Cell] = []

    def take(grid: Any, *_: Any, **__: Any) -> int:
        asked.extend(grid.cells)
        return 0

    monkeypatch.setattr("kdbench.benchmark.runs.local.run_grid", take)
    monkeypatch.setattr("kdbench.slurm.submit.submit", take)
    option = ["--local"] if where == "local" else ["--site", "gpu-partition"]
    answer = kdbench("reproduce", "dkd", *option, "--seeds", "1", "--results", tmp_path)
    assert answer.code == 0
    assert len(asked) == 22 and {cell.seed for cell in asked} == {0}
    assert ("not run" in answer.out) == (where == "local")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["dkd", "--local", "--site", "gpu-partition"], "--local or with --site, got both"),
        (["dkd", "--seeds", "2"], "got neither"),
        (["claims", "--local"], "are for a paper's table, got 'claims'"),
        (["dkd", "--local", "--json"], "--json only shows a table"),
        (["lst"], "unknown table 'lst'; did you mean 'list'"),
        (["dot", "--local"], "no grid ships for it yet"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], why: str, kdbench: Command, tmp_path: Path) -> None:
    assert why in kdbench("reproduce", *words, "--results", tmp_path).sentence


# -- classes that arrive task by task ---------------------------------------------------------------------------------


def arrived(method: str, params: dict[str, Any], tasks: int, top1: list[float], **other: Any) -> list[Any]:
    """Records as the incremental setting writes them."""
    asked = Incremental(**{"count": tasks, "classifier": "full"} | other)
    cell = {"setting": "incremental", "dataset": "cifar100", "student": "resnet32", "method": method}
    cell |= {"params": complete(method, params), "protocol": "incremental-250", "incremental": asked}
    cell |= {"recipe": None, "world": 1, "code": {}}
    return [
        SimpleNamespace(
            id=f"{method}-{seed}", cell=SimpleNamespace(**cell), result=SimpleNamespace(top1=value), data=""
        )
        for seed, value in enumerate(top1)
    ]


def test_incremental_figures_stand_beside_records_of_the_same_sequence() -> None:
    """Published: LwF on ten tasks as 9.2 ± 0.0 and fine-tuning on five as 16.4 ± 0.4, over three runs each."""
    lwf = {"temperature": 2, "weight": 0.25, "ce_weight": 1}
    records = arrived("kd", lwf, 10, [9.2, 9.3, 9.4]) + arrived("ce", {}, 5, [30.0, 30.1, 30.2])
    records += arrived("kd", {}, 20, [4.7, 4.7]) + arrived("ce", {}, 20, [4.4, 4.4], task_loss="balanced")
    rows = incremental.report(records).rows
    assert [(row["method"], row["tasks"], row["n"], row["verdict"]) for row in rows if row["n"]] == [
        ("Base", 5, 3, "ours is higher"),
        ("Base", 20, 2, "other protocol"),
        ("LwF", 10, 3, "reproduced"),
        ("LwF", 20, 2, "other protocol"),
    ]
    assert len(rows) == 39
    assert {row["verdict"] for row in rows if not row["n"]} == {"not run", "no cell of ours"}


def test_images_that_were_kept_are_seen_however_they_were_counted() -> None:
    """Twenty images of each class are 2,000 in the end, as in the published rehearsal, but another kind of memory."""
    ran = arrived("ce", {}, 5, [40.0, 40.1, 40.2], exemplars=20, choice="random")
    (row,) = [row for row in incremental.report(ran).rows if row["n"]]
    assert (row["method"], row["memory"], row["verdict"]) == ("Naive Rehearsal", 2000, "other protocol")
    ran = arrived("ce", {}, 5, [34.0, 34.1, 34.2], memory=2000, choice="random")
    (row,) = [row for row in incremental.report(ran).rows if row["n"]]
    assert (row["method"], row["verdict"], row["half"] > 0) == ("Naive Rehearsal", "reproduced", True)


def test_another_sequence_of_classes_stands_beside_no_figure() -> None:
    assert not any(row["n"] for row in incremental.report(arrived("ce", {}, 5, [30.0, 30.1], base=60)).rows)
    assert any(row["n"] for row in incremental.report(arrived("ce", {}, 5, [30.0, 30.1], base=20)).rows)


@pytest.mark.parametrize("memory", [0, 2000])
def test_aligned_weights_have_no_verdict(memory: int) -> None:
    ran = arrived("ce", {}, 5, [50.0, 50.1], memory=memory, choice="random", alignment=True)
    (row,) = [row for row in incremental.report(ran).rows if row["n"]]
    assert (row["memory"], row["half"], row["verdict"]) == (memory, None, "other protocol")


def test_in_one_task_there_is_nothing_to_align() -> None:
    ran = arrived("ce", {}, 1, [69.8, 69.9, 70.0], alignment=True)
    rows = [row for row in incremental.report(ran).rows if row["n"]]
    assert [(row["method"], row["verdict"]) for row in rows] == [("UB", "reproduced")] * 3


def test_the_verb_prints_incremental_figures_without_any_record(kdbench: Command, tmp_path: Path) -> None:
    answer = kdbench("reproduce", "incremental", "--results", tmp_path)
    assert answer.code == 0 and answer.out.count("not run") > 10
