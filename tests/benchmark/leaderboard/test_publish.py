"""The files depend on the records only and have the same bytes each time, with any other files among the records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from kdbench.benchmark.leaderboard.publish import publish
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Environment, Failure, Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.throughput.record import Pace, Throughput, keep, measured
from kdbench.benchmark.whole import write

Make, Command = Callable[..., Any], Callable[..., Any]
OLD = Path(__file__).parent / "record_of_format_1.json"
NAMES = ["leaderboard.csv", "leaderboard.html", "leaderboard.json", "leaderboard.md", "leaderboard.tex"]


@pytest.fixture
def records(make_cell: Make, make_record: Make) -> list[Record]:
    ce = [make_record(make_cell(seed=seed), top1=50 + seed) for seed in range(2)]
    return ce + [make_record(make_cell("kd", "big", seed=seed), top1=54 + 2 * seed, speed=500) for seed in range(2)]


@pytest.fixture
def results(tmp_path: Path, records: list[Record]) -> Path:
    for record in records:
        Store(tmp_path).finish(record)
    return tmp_path


def written(results: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(results.iterdir()) if file.is_file()}


def test_every_format_is_written_from_the_same_numbers_and_stays_the_same(results: Path) -> None:
    publish(results, None).write()
    first = written(results)
    assert list(first) == NAMES
    publish(results, None).write()
    assert written(results) == first
    rows = json.loads(first["leaderboard.json"])["series"]
    assert [row["top1"] for row in rows] == [50.5, 55]
    assert list(pd.read_csv(results / "leaderboard.csv")["over_ce"].fillna(0)) == [0, 4.5]
    assert rows[0]["over_ce"] is None
    assert b"+4.50 $\\pm$ 6.35" in first["leaderboard.tex"] and b"resnet8x0.25" in first["leaderboard.tex"]
    assert b"+4.50 \xc2\xb1 6.35" in first["leaderboard.md"]


def test_a_run_that_failed_is_told_of_and_stands_in_no_mean(results: Path, make_cell: Make) -> None:
    publish(results, None).write()
    before = written(results)
    cell = make_cell("kd", "big", seed=2)
    why = "Diverged: the loss is no longer a number"
    Store(results).fail(Failure(id=cell.id, cell=cell, error=why, traceback="", failed=""))
    publish(results, None).write()
    after = written(results)
    told = after["leaderboard.md"].decode().removeprefix(before["leaderboard.md"].decode())
    assert told.startswith("\n## failed runs\n") and told.count(why) == 1 and "| kd " in told
    assert why.encode() in after["leaderboard.html"] and b"Failed runs" in after["leaderboard.html"]
    for name in "leaderboard.csv", "leaderboard.json", "leaderboard.tex":
        assert after[name] == before[name]


def test_a_failure_of_a_cell_that_has_a_record_by_now_is_not_told(results: Path, records: list[Record]) -> None:
    cell = records[-1].cell
    Store(results).fail(Failure(id=cell.id, cell=cell, error="Diverged", traceback="", failed=""))
    assert publish(results, None).board.failed.empty


def test_check_names_what_is_not_the_records_and_writes_nothing(
    kdbench: Command, results: Path, make_cell: Make, make_record: Make
) -> None:
    answer = kdbench("leaderboard", "--results", results, "--check")
    assert (answer.code, written(results)) == (1, {})
    kdbench("leaderboard", "--results", results)
    assert kdbench("leaderboard", "--results", results, "--check").code == 0
    (results / "leaderboard.csv").write_text("by hand\n")
    answer = kdbench("leaderboard", "--results", results, "--check")
    assert answer.code == 1 and answer.err.count("\n") == 1
    assert "leaderboard.csv" in answer.err and "leaderboard.md" not in answer.err
    assert (results / "leaderboard.csv").read_text() == "by hand\n"
    Store(results).finish(make_record(make_cell(seed=7), top1=70))
    assert "leaderboard.md" in kdbench("leaderboard", "--results", results, "--check").err


def test_a_grid_narrows_the_tables_to_its_cells_and_goes_into_their_names(
    results: Path, records: list[Record], make_record: Make
) -> None:
    grid = results / "mine.yaml"
    grid.write_text("datasets: digits\nstudents: resnet8x0.25\nmethods: ce\nrecipe: quick\nseeds: 2\n")
    asked = [make_record(cell, top1=60) for cell in load(str(grid)).cells]
    for record in asked:
        Store(results).finish(record)
    found = publish(results, str(grid))
    assert set(found.board.cells["id"]) == {record.id for record in asked}
    assert {file.name for file in found.files if file.parent == results} == {
        name.replace("leaderboard", "leaderboard-mine") for name in NAMES
    }
    assert set(publish(results, None).board.cells["id"]) == {record.id for record in [*asked, *records]}


def test_a_picture_that_the_records_give_no_more_is_taken_away(results: Path) -> None:
    found = publish(results, None)
    found.files[results / "pictures" / "gains.svg"] = b"drawn"
    found.write()
    old = results / "pictures" / "gains-of-another-day.svg"
    old.write_bytes(b"drawn")
    mine = results / "pictures" / "mine"
    mine.mkdir()
    (results / "pictures" / "notes.txt").write_text("kept")
    assert found.outdated() == [old]
    found.write()
    assert found.outdated() == [] and not old.exists() and mine.exists()


def test_a_picture_of_somebody_elses_is_left_alone(results: Path) -> None:
    found = publish(results, None)
    found.files[results / "pictures" / "gains-digits.svg"] = b"drawn"
    others = [results / "pictures" / name for name in ("q.png", "quality.png", "gains.pdf", "widths-of-mine.svg")]
    for picture in others:
        write(picture, b"drawn")
    found.write()
    assert found.outdated() == [] and all(picture.exists() for picture in others)


def test_a_check_tells_of_a_damaged_record_and_leaves_it_there(kdbench: Command, results: Path) -> None:
    damaged = results / "records" / "damaged.json"
    damaged.write_text("{")
    assert f"{damaged} is not believed" in kdbench("leaderboard", "--results", results, "--check").err
    assert damaged.exists() and not (results / "damaged").exists()


@pytest.mark.parametrize("name", ["", "mine"])
def test_pictures_are_taken_away_where_nothing_is_drawn_any_more(
    name: str, kdbench: Command, results: Path, make_record: Make
) -> None:
    grid = results / "mine.yaml"
    grid.write_text("datasets: digits\nstudents: resnet8x0.25\nmethods: ce\nrecipe: quick\n")
    for cell in load(str(grid)).cells:
        Store(results).finish(make_record(cell, top1=60))
    folder, other = ("pictures-mine", "pictures") if name else ("pictures", "pictures-mine")
    for place in (folder, other):
        write(results / place / "curves-digits-tiny.png", b"drawn")
    asked = ["leaderboard", *([grid] if name else []), "--results", results]
    kdbench(*asked)
    assert [place for place in (folder, other) if (results / place / "curves-digits-tiny.png").exists()] == [other]

    write(results / folder / "curves-digits-tiny.png", b"drawn")
    answer = kdbench(*asked, "--check")
    assert answer.code == 1 and f"{folder}/curves-digits-tiny.png" in answer.err


def test_what_is_damaged_cut_foreign_or_there_twice_is_reported_and_harms_nothing(
    results: Path, records: list[Record]
) -> None:
    clean = publish(results, None).files
    folder = results / "records"
    for name, content in {
        "damaged": b"\x00\xff\x00",
        "cut": pretty(records[0])[:-40],
        "foreign": b'{"name": "somebody else\'s", "version": 3}',
        "number": b"42",
        "copy": pretty(records[0]),  # under the name of another record
    }.items():
        write(folder / f"{name}.json", content)
    line = msgspec.json.encode(records[0])
    lines = [line, line, b'{"other": []}', b"", msgspec.json.encode(records[1])[:-9]]
    write(folder / "pack.jsonl", b"\n".join(lines) + b"\n")
    found = publish(results, None)
    assert found.files == clean
    assert len(found.troubles) == 5 + 4
    assert all("\n" not in trouble for trouble in found.troubles)


def test_a_record_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    """The file is from the first version that wrote records. Never regenerate it."""
    name = json.loads(OLD.read_bytes())["id"]
    write(tmp_path / "records" / f"{name}.json", OLD.read_bytes())
    (row,) = publish(tmp_path, None).board.series.to_dict(orient="records")
    assert (row["method"], round(row["top1"], 2), row["n"]) == ("clkd", 93.59, 1)
    assert Store(tmp_path).records()[name].result.curves.top1[-1] == row["top1"]


# -- speeds from throughput records -----------------------------------------------------------------------------------


@pytest.fixture
def measure(make_cell: Make) -> Callable[..., Throughput]:
    def make(method: str, live: float, remembered: float | None = None, *, key: str = "gpu") -> Throughput:
        cell = measured(make_cell(method, None if method == "ce" else "big"))

        def pace(speed: float) -> Pace:
            return Pace(cost=1e4 / speed, images_per_second=speed, step_ms=1, peak_memory_mb=321, tflops=0.5)

        return Throughput(
            id=cell.id, dataset="digits", teacher="" if method == "ce" else "big", student=cell.student, method=method,
            params=cell.params, recipe="tiny", epochs=2, batch=16, precision="fp32", live=pace(live),
            remembered=remembered and pace(remembered), peak_tflops=1, method_parameters=0, student_parameters=1,
            deployed_parameters=1, teacher_macs=1, student_macs=1,
            environment=Environment(
                key=key, arithmetic={}, machine={"gpu": "H100"}, versions={}, git="", finished=""
            ),
        )  # fmt: skip

    return make


def test_measured_speeds_stay_when_another_grid_names_the_same_recipe_more_plainly(
    results: Path, measure: Callable[..., Throughput], make_cell: Make, make_record: Make
) -> None:
    keep(measure("ce", 8000), results)
    keep(measure("kd", 2000), results)
    store = Store(results)
    store.finish(make_record(make_cell("dkd", "big", protocol="t")))
    found = publish(results, None).board.series.set_index("method")
    assert set(found["recipe"]) == {"t"} and found["images_per_second"].dropna().to_dict() == {"ce": 8000, "kd": 2000}


def test_the_page_of_speeds_is_what_its_records_give_too(results: Path, measure: Callable[..., Throughput]) -> None:
    publish(results, None).write()
    keep(measure("kd", 2000, 4000), results)
    page = results / "throughput" / "gpu" / "throughput.md"
    assert page in publish(results, None).outdated()
    publish(results, None).write()
    assert "| kd " in page.read_text() and publish(results, None).outdated() == []
    page.write_text("by hand\n")
    assert publish(results, None).outdated() == [page]


def test_measured_speeds_stand_instead_of_cells_and_never_beside_those_of_another_environment(
    results: Path, measure: Callable[..., Throughput]
) -> None:
    keep(measure("ce", 8000), results)
    keep(measure("kd", 9999, key="another"), results)
    found = publish(results, None).board.series.set_index("method")
    assert found.loc["ce", "images_per_second"] == 8000 or found.loc["kd", "images_per_second"] == 9999
    assert found["images_per_second"].count() == 1  # one environment, and nothing from cells

    keep(measure("kd", 2000, 4000), results)
    found = publish(results, None).board.series.set_index("method")
    assert found["images_per_second"].to_dict() == {"ce": 8000, "kd": 2000}
    # The measured cost, not a ratio of speeds, which were measured at different times.
    assert (found.loc["kd", "relative_cost"], found.loc["kd", "remembered_cost"]) == (5, 2.5)
    keep(msgspec.structs.replace(measure("kd", 2000, 4000), initial=0.25), results)
    found = publish(results, None).board.series.set_index("method")
    assert (found.loc["kd", "relative_cost"], found.loc["kd", "remembered_cost"]) == (5.25, 2.75)
    assert set(found["paced_in"]) == {"H100 · gpu"} and set(found["environment"]) == {"here"}
    text = publish(results, None).files[results / "leaderboard.md"].decode()
    assert (
        "Speed and memory were measured on H100 · gpu." in text
        and "Training times come from cells on here, next to whatever else ran there:" in text
    )
