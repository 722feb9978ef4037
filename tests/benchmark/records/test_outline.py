"""What a plan reads of packs once, and again only when it must."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store

Make = Callable[..., Any]


@pytest.fixture
def records(make_cell: Make, make_record: Make) -> list[Record]:
    return [make_record(make_cell("kd", "big", seed=seed), seconds=10 + seed) for seed in range(3)]


@pytest.fixture
def results(tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store_module, "PACK_FROM", 1)
    for record in records:
        Store(tmp_path).finish(record)
    Store(tmp_path).pack()
    return tmp_path


def seconds(results: Path) -> dict[str, float]:
    return {key: outline.seconds for key, outline in Store(results).outlines().items()}


def test_outlines_are_those_of_the_records_and_a_pack_is_read_once(
    results: Path, records: list[Record], make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {record.id: record.cost.seconds for record in records}
    assert seconds(results) == expected
    monkeypatch.setattr(store_module, "believed", None)  # whoever reads a record now falls
    assert seconds(results) == expected
    monkeypatch.undo()
    Store(results).finish(make_record(records[0].cell, top1=99.0, seconds=99))
    assert seconds(results) == expected | {records[0].id: 99}  # a single one is newer than a pack
    monkeypatch.setattr(store_module, "PACK_FROM", 1)
    Store(results).pack()
    assert seconds(results) == expected | {records[0].id: 99}


def test_what_is_kept_is_never_believed_more_than_the_pack(results: Path, records: list[Record]) -> None:
    assert len(seconds(results)) == 3
    (pack,) = (results / "records").glob("*.jsonl")
    lines = pack.read_bytes().splitlines(keepends=True)
    pack.write_bytes(lines[0] + lines[1][:-20] + b"\n" + lines[2])
    for _ in range(2):  # reported each time
        store = Store(results)
        assert store.outlines().keys() == store.records().keys()
        assert len(store.outlines()) == 2
        assert len(store.troubles) == 1 and "line 2" in store.troubles[0]


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, msgspec.msgpack.encode([[0, 0, 0], [["an", "old", "form"]]])])
def test_a_damaged_outline_is_read_anew(results: Path, content: bytes) -> None:
    expected = seconds(results)
    (file,) = (results / "work" / "outlines").iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    assert seconds(results) == expected
    assert file.read_bytes() == good
