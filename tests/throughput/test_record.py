"""What is read back, what is not believed, and the pace of a whole run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.experiments.record import Environment
from kdbench.benchmark.throughput.record import Pace, Throughput, folder, keep, records

MakeThroughput = Callable[..., Throughput]


def pace(speed: float) -> Pace:
    return Pace(images_per_second=speed, step_ms=64e3 / speed, peak_memory_mb=900.0, peak_share=0.25)


@pytest.fixture
def make() -> MakeThroughput:
    def make(id: str = "cifar100-a-b-kd-s0-0123", environment: str = "here", **changes: Any) -> Throughput:
        where = Environment(key=environment, arithmetic={}, machine={}, versions={}, git="", finished="2026-01-01")
        basis = {
            "dataset": "cifar100", "teacher": "a", "student": "b", "method": "kd", "params": {"temperature": 4.0},
            "recipe": "cifar-240", "batch": 64, "precision": "fp32", "live": pace(1000.0), "matmul_tflops": 0.17,
            "method_parameters": 0, "student_parameters": 10, "deployed_parameters": 10, "teacher_macs": 5,
            "student_macs": 2,
        }  # fmt: skip
        return Throughput(id=id, environment=where, **(basis | changes))

    return make


def test_what_was_kept_is_read_back_from_every_environment(tmp_path: Path, make: MakeThroughput) -> None:
    kept = [make(), make("cifar100-a-b-crd-s0-4567", remembered=pace(3000.0)), make(environment="elsewhere")]
    for record in kept:
        keep(record, tmp_path)
    found = records(tmp_path)
    assert sorted(found, key=repr) == sorted(kept, key=repr)
    assert records(tmp_path / "nowhere") == []


def test_what_cannot_be_believed_is_reported_and_hides_nothing_else(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    here = folder(tmp_path) / "here"
    (here / "cut.json").write_bytes(msgspec.json.encode(make("cut"))[:-20])
    (here / "bytes.json").write_bytes(b"\xff\xfe")
    (here / "foreign.json").write_text('{"id": "foreign", "top1": 71.2}')
    (here / "copied.json").write_bytes(msgspec.json.encode(make("original")))
    (folder(tmp_path) / "elsewhere").mkdir()
    (folder(tmp_path) / "elsewhere" / "x.json").write_bytes(msgspec.json.encode(make("x", environment="here")))
    (here / "folder.json").mkdir()
    troubles: list[str] = []
    assert records(tmp_path, troubles) == [make()]
    assert [Path(trouble.split()[0]).name for trouble in troubles] == [
        "x.json", "bytes.json", "copied.json", "cut.json", "folder.json", "foreign.json"
    ]  # fmt: skip


def test_a_field_of_a_newer_version_is_no_trouble(tmp_path: Path, make: MakeThroughput) -> None:
    keep(make(), tmp_path)
    file = next(folder(tmp_path).glob("*/*.json"))
    file.write_text(file.read_text().replace("{", '{"watts": 250,', 1))
    assert records(tmp_path) == [make()]


def test_the_pace_of_a_run_lies_between_its_first_epochs_and_that_of_those_who_come_later(make: MakeThroughput) -> None:
    """Two views, two epochs: an image is asked about 2 (1 - 1/4) = 1.5 times; (1.5 / 100 + 0.5 / 300) / 2 seconds."""
    record = make(cold=pace(100.0), remembered=pace(300.0), views=2)
    assert record.amortised(1) == pytest.approx(100)
    assert record.amortised(2) == pytest.approx(120)
    assert record.amortised(10_000) == pytest.approx(300, rel=1e-3)
    assert make(cold=pace(100.0), remembered=pace(300.0)).amortised(2) == pytest.approx(150)
    assert make().amortised(240) is None
