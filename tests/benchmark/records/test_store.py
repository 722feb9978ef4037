"""A results folder: what is finished is found again, what cannot be believed is set aside and never fatal."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Failure, Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.whole import write
from tests.benchmark.records.stores import by_id, files, single

Make = Callable[..., Any]


def failed(cell: Any, error: str = "ValueError: no") -> Failure:
    return Failure(id=cell.id, cell=cell, error=error, traceback="", failed="2025-01-01T00:00:00+00:00")


# -- a round trip -----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_read_again_with_the_same_bits(store: Store, records: list[Record]) -> None:
    records[0].result.top1 = 100 / 3
    for record in records:
        store.finish(record)
    again = Store(store.folder)
    assert again.records() == by_id(records)
    assert again.record(records[0].id) == records[0]
    assert again.troubles == []


def test_an_empty_folder_and_one_that_is_not_there_hold_nothing(store: Store) -> None:
    assert store.records() == store.failures() == {}
    assert store.record("nobody") is store.failure("nobody") is None
    store.tidy()
    assert not store.folder.exists()


def test_a_finished_cell_is_no_failure_any_more(store: Store, records: list[Record]) -> None:
    store.fail(failed(records[0].cell))
    assert store.failure(records[0].id) == store.failures()[records[0].id]
    store.finish(records[0])
    assert store.failures() == {}


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at_write", [1, 2])
def test_weights_never_lie_beside_the_record_of_others(
    store: Store, records: list[Record], make_record: Make, monkeypatch: pytest.MonkeyPatch, dies_at_write: int
) -> None:
    old, new = records[0], make_record(records[0].cell, top1=99.0)
    store.finish(old, b"old")
    calls = 0

    def killed(file: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at_write:
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr(store_module, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        store.finish(new, b"new")
    assert not store.weights(old.cell).exists()  # so the plan says that it must be run again
    monkeypatch.undo()
    store.finish(new, b"new")
    assert store.weights(old.cell).read_bytes() == b"new"


def test_what_was_found_out_about_a_teacher_is_remembered_until_it_has_other_weights(
    store: Store, records: list[Record]
) -> None:
    found = iter([{"depths": (1, 2)}, {"depths": (3,)}, {"depths": (4,)}])
    teacher = records[0]

    def ask(teacher: Record) -> object:
        return store.remembered(teacher, "quality", lambda: next(found))

    assert ask(teacher) == ask(teacher) == {"depths": [1, 2]}
    other = replace(teacher, result=replace(teacher.result, weights="others"))
    assert ask(other) == {"depths": [3]}
    (memory,) = (store.folder / "teachers").glob("*.json")
    memory.write_bytes(memory.read_bytes()[:-3])
    assert ask(other) == {"depths": [4]}


# -- what is not believed ---------------------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    return content.replace(b'"seed": 0', b'"seed": 9')


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": flipped,
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: bytes(range(256)),
    "not utf-8": lambda content: content.replace(b"digits", b"\xff\xfe"),
    "another document": lambda content: b'{"name": "kdbench"}',
    "a list": lambda content: b"[1, 2]",
    "endless brackets": lambda content: b'{"cell": {"params": {"a": ' + b"[" * 100_000,
    "a word for a number": lambda content: content.replace(b'"top1": 0.0', b'"top1": "good"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_is_set_aside_reported_once_and_harms_no_other(
    store: Store, records: list[Record], damage: Callable[[bytes], bytes]
) -> None:
    for record in records:
        store.finish(record)
    file = single(store, records[0])
    content = damage(file.read_bytes())
    assert content != file.read_bytes()
    file.write_bytes(content)

    assert store.records() == by_id(records[1:])
    (trouble,) = store.troubles
    assert str(file) in trouble
    assert "set aside" in trouble
    assert "\n" not in trouble
    (aside,) = store.damaged_folder.iterdir()
    assert aside.read_bytes() == content
    assert Store(store.folder).records() == by_id(records[1:])
    assert store.record(records[0].id) is None


def test_a_damaged_failure_is_set_aside_too(store: Store, records: list[Record]) -> None:
    store.fail(failed(records[0].cell))
    (store.failures_folder / f"{records[0].id}.json").write_bytes(b"{")
    assert store.failure(records[0].id) is None
    assert store.failures() == {}
    assert len(store.troubles) == len(list(store.damaged_folder.iterdir())) == 1


def test_a_record_under_the_name_of_another_is_set_aside(store: Store, records: list[Record]) -> None:
    store.finish(records[0])
    single(store, records[0]).rename(single(store, records[1]))
    assert store.records() == {}
    assert f"it holds the cell {records[0].id}" in store.troubles[0]


def test_a_record_whose_cell_is_not_the_one_it_names_is_set_aside(store: Store, records: list[Record]) -> None:
    store.finish(records[0])
    file = single(store, records[0])
    file.write_bytes(flipped(file.read_bytes()))
    assert store.record(records[0].id) is None
    assert "its id does not match its cell, which is" in store.troubles[0]


def test_nothing_that_was_set_aside_before_is_written_over(store: Store, records: list[Record]) -> None:
    for rubbish in (b"one", b"two", b"two"):
        write(single(store, records[0]), rubbish)
        assert store.records() == {}
    assert sorted(file.read_bytes() for file in store.damaged_folder.iterdir()) == [b"one", b"two"]


def test_of_two_that_find_the_same_damage_neither_falls(
    store: Store, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(single(store, records[0]), b"rubbish")
    real = store_module.believed

    def slow(content: bytes, kind: Any) -> Any:
        monkeypatch.setattr(store_module, "believed", real)
        assert Store(store.folder).records() == {}  # another process comes in between
        return real(content, kind)

    monkeypatch.setattr(store_module, "believed", slow)
    assert store.records() == {}
    assert len(list(store.damaged_folder.iterdir())) == 1


def test_a_part_is_no_record_and_is_set_aside_once_its_writer_must_be_dead(store: Store, records: list[Record]) -> None:
    store.finish(records[0])
    whole = pretty(records[1])
    part = store.records_folder / f".{records[1].id}.json.4711.part"
    part.write_bytes(whole)
    assert store.records() == by_id(records[:1])
    assert part.exists()  # its writer may be about to finish it
    assert store.troubles == []
    os.utime(part, (time.time() - 7200, time.time() - 7200))
    assert store.records() == by_id(records[:1])
    assert not part.exists()
    assert len(store.troubles) == len(list(store.damaged_folder.iterdir())) == 1


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_writer_that_is_stopped_leaves_the_record_before_it_alone(
    store: Store, records: list[Record], make_record: Make, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store.finish(records[0])

    def stopped(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, stopped)
    with pytest.raises(OSError, match="No space left"):
        store.finish(make_record(records[0].cell, top1=99.0))
    monkeypatch.undo()
    assert files(store.folder) == [f"records/{records[0].id}.json"]
    assert store.records() == by_id(records[:1])
    assert store.troubles == []


# -- older and newer versions -----------------------------------------------------------------------------------------


def test_a_record_without_the_fields_of_a_newer_version_is_read(store: Store, records: list[Record]) -> None:
    older = json.loads(pretty(records[0]))
    for optional in ("teacher_weights", "teacher_top1"):
        del older["result"][optional]
    del older["format"]
    write(single(store, records[0]), json.dumps(older).encode())
    assert store.records() == by_id(records[:1])


# -- what people read -------------------------------------------------------------------------------------------------


def test_the_file_is_json_equal_to_the_record_with_each_curve_on_a_line(records: list[Record]) -> None:
    text = pretty(records[0])
    assert msgspec.json.decode(text, type=Record) == records[0]
    assert json.loads(text) == json.loads(msgspec.json.encode(records[0]))
    lines = [line.strip() for line in text.decode().splitlines()]
    assert '"lr": [0.1, 0.1],' in lines
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize(
    "text",
    ["tensor([  1.,  nan  ])", "[ 1 ]", "[\n  1,\n  2\n]", '"quoted [ "', "\\[  \\n  ]", "Überlauf → ∞ [ \t ]"],
)
def test_text_is_written_as_it_is(make_cell: Make, text: str) -> None:
    failure = failed(make_cell(), error=text)
    failure.traceback = text * 2
    assert msgspec.json.decode(pretty(failure), type=Failure) == failure


@pytest.mark.parametrize("value", [[], [[]], [[1, 2], [3]], ["a", "b"], [1, "a"], [None, True], {}, [{"a": [1]}]])
def test_every_shape_of_parameters_survives(records: list[Record], value: Any) -> None:
    records[0].result.params = {"nested": {"value": value}}
    assert msgspec.json.decode(pretty(records[0]), type=Record) == records[0]
