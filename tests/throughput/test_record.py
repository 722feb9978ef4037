"""What is read back, what is not believed, and the pace of a whole run."""

from pathlib import Path

import msgspec
import pytest

from kdbench.benchmark.throughput.record import folder, keep, records
from tests.throughput.conftest import MakeThroughput, pace


def test_what_was_kept_is_read_back_from_every_environment(tmp_path: Path, make: MakeThroughput) -> None:
    kept = [make(), make("crd", remembered=pace(3000.0)), make(environment="elsewhere")]
    for record in kept:
        keep(record, tmp_path)
    found = records(tmp_path)
    assert sorted(found, key=repr) == sorted(kept, key=repr)
    assert records(tmp_path / "nowhere") == []


def test_what_cannot_be_believed_is_reported_and_hides_nothing_else(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    here = folder(tmp_path) / "here"
    (here / "cut.json").write_bytes(msgspec.json.encode(make(id="cut"))[:-20])
    (here / "bytes.json").write_bytes(b"\xff\xfe")
    (here / "foreign.json").write_text('{"id": "foreign", "top1": 71.2}')
    (here / "copied.json").write_bytes(msgspec.json.encode(make(id="original")))
    (folder(tmp_path) / "elsewhere").mkdir()
    (folder(tmp_path) / "elsewhere" / "x.json").write_bytes(msgspec.json.encode(make(id="x", environment="here")))
    (here / "folder.json").mkdir()
    troubles: list[str] = []
    assert records(tmp_path, troubles) == [make()]
    assert [Path(trouble.split()[0]).name for trouble in troubles] == [
        "x.json", "bytes.json", "copied.json", "cut.json", "folder.json", "foreign.json"
    ]  # fmt: skip


def test_a_record_without_a_cost_must_be_measured_anew(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    file = next(folder(tmp_path).glob("*/*.json"))
    file.write_text(file.read_text().replace('"cost": 1.0,', ""))
    troubles: list[str] = []
    assert records(tmp_path, troubles) == []
    assert troubles == [
        f"{file} is no throughput record, and must be measured anew: Object missing required field `cost`"
    ]


def test_a_field_of_a_newer_version_is_no_trouble(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    file = next(folder(tmp_path).glob("*/*.json"))
    file.write_text(file.read_text().replace("{", '{"watts": 250,', 1))
    assert records(tmp_path) == [make()]


def test_the_pace_of_a_run_lies_between_its_first_epochs_and_that_of_those_who_come_later(make: MakeThroughput) -> None:
    """Two views, two epochs: an image is asked about 2 (1 - 1/4) = 1.5 times; (1.5 / 100 + 0.5 / 300) / 2 seconds."""

    def amortised(epochs: int, views: int = 2) -> float | None:
        return make(cold=pace(100.0), remembered=pace(300.0), views=views, epochs=epochs).amortised()

    assert amortised(1) == pytest.approx(100)
    assert amortised(2) == pytest.approx(120)
    assert amortised(10_000) == pytest.approx(300, rel=1e-3)
    assert amortised(2, views=1) == pytest.approx(150)
    assert make().amortised() is None
