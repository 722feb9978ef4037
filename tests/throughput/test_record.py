"""Reading records, invalid files, and the cost of a whole run."""

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


def test_a_record_of_an_older_format_is_to_be_measured_again(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    file = next(folder(tmp_path).glob("*/*.json"))
    file.write_text('{"format": 1, "id": "cifar100-kd", "cost": 1.6}')
    troubles: list[str] = []
    assert records(tmp_path, troubles) == []
    assert troubles == [f"{file} is no throughput record: its format must be 2, got 1: measure it again"]


def test_a_field_of_a_newer_version_is_no_trouble(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    file = next(folder(tmp_path).glob("*/*.json"))
    file.write_text(file.read_text().replace("{", '{"watts": 250,', 1))
    assert records(tmp_path) == [make()]


def test_the_cost_of_a_run_lies_between_its_first_epochs_and_that_of_those_who_come_later(make: MakeThroughput) -> None:
    """Two views and two epochs: the teacher answers for an image 2 (1 - 1/4) = 1.5 times; (1.5 · 9 + 0.5 · 3) / 2."""

    def amortised(epochs: int, views: int = 2) -> float | None:
        return make(cold=pace(1000 / 9), remembered=pace(1000 / 3), views=views, epochs=epochs).amortised()

    assert amortised(1) == pytest.approx(9)
    assert amortised(2) == pytest.approx(7.5)
    assert amortised(10_000) == pytest.approx(3, rel=1e-2)
    assert amortised(2, views=1) == pytest.approx(6)
    assert make().amortised() is None
