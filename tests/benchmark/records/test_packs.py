"""Many single records become a few files, and at no moment is one of them missing."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.legibility import pretty
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal
from tests.benchmark.records.stores import by_id, files, single

Make = Callable[..., Any]


@pytest.fixture
def packed(store: Store, records: list[Record], pack_from_one: None) -> Store:
    for record in records:
        store.finish(record)
    store.pack()
    return store


@pytest.fixture
def pack_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PACK_FROM", 1)


# -- packs ------------------------------------------------------------------------------------------------------------


def test_many_single_records_become_a_few_files_and_all_are_found(packed: Store, records: list[Record]) -> None:
    assert len(files(packed.records_folder)) == 2
    assert files(packed.folder / "work") == []
    assert packed.records() == by_id(records)
    assert [packed.record(record.id) for record in records] == records
    assert packed.record("nobody") is packed.record("") is None


def test_only_the_pack_that_has_a_record_is_opened_and_only_that_record_is_decoded(
    packed: Store, records: list[Record], make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packed.record("nobody") is None  # and now it is known what there is
    opened, decoded, path_open, believed = list[str](), list[type](), Path.open, store_module.believed

    def opens(self: Path, *asked: Any, **more: Any) -> Any:
        opened.append(self.suffix)
        return path_open(self, *asked, **more)

    def believes(content: bytes, kind: Any) -> Any:
        decoded.append(kind)
        return believed(content, kind)

    monkeypatch.setattr(Path, "open", opens)
    monkeypatch.setattr(store_module, "believed", believes)
    assert packed.record("nobody") is None
    assert opened.count(".jsonl") == 0
    assert packed.record(records[-1].id) == records[-1]
    assert packed.records({records[0].id}) == by_id(records[:1])
    assert packed.lines({records[1].id}) == {records[1].id: msgspec.json.encode(records[1])}
    assert (opened.count(".jsonl"), decoded) == (3, [Record] * 3)
    again = make_record(records[0].cell, top1=99.0)
    Store(packed.folder).finish(again)
    Store(packed.folder).pack()
    assert packed.record(again.id) == again  # the pack is another one now


def test_few_records_stay_as_they_are(store: Store, records: list[Record]) -> None:
    for record in records:
        store.finish(record)
    store.pack()
    assert len(files(store.records_folder)) == len(records)


def test_packing_again_changes_no_byte_and_adds_what_is_new(packed: Store, make_cell: Make, make_record: Make) -> None:
    before = {file: file.read_bytes() for file in packed.records_folder.iterdir()}
    packed.pack()
    assert {file: file.read_bytes() for file in packed.records_folder.iterdir()} == before
    count = len(packed.records())
    packed.finish(make_record(make_cell(seed=77)))
    packed.pack()
    assert len(files(packed.records_folder)) == len(before)
    assert len(packed.records()) == count + 1


@pytest.mark.parametrize("survive", [0, 1, 5])
def test_a_packer_that_is_killed_loses_and_doubles_nothing(
    store: Store, records: list[Record], pack_from_one: None, monkeypatch: pytest.MonkeyPatch, survive: int
) -> None:
    """It dies after the first pack is written, with so many single files removed."""
    for record in records:
        store.finish(record)
    removed, unlink = 0, Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        if self.parent == store.records_folder:
            removed += 1
            if removed > survive:
                raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.pack()
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "PACK_FROM", 1)
    assert store.records() == by_id(records)
    store.pack()
    lines = [line for pack in store.records_folder.glob("*.jsonl") for line in pack.read_bytes().splitlines()]
    assert len(lines) == len(records) == len(store.records())
    assert len(files(store.records_folder)) == 2


def test_a_record_that_is_finished_anew_while_it_is_packed_is_not_lost(
    store: Store, records: list[Record], make_record: Make, pack_from_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = make_record(records[0].cell, top1=99.0)

    def overtaken(file: Path, content: bytes) -> None:
        write(file, content)
        if file.suffix == ".jsonl":
            Store(store.folder).finish(again)  # another process comes in between

    for record in records[:2]:
        store.finish(record)
    monkeypatch.setattr(store_module, "write", overtaken)
    store.pack()
    assert single(store, again).exists() and not single(store, records[1]).exists()
    assert store.record(again.id) == again
    monkeypatch.setattr(store_module, "write", write)
    store.pack()
    assert store.records() == by_id([again, records[1]])


def test_while_another_packs_nobody_else_does(store: Store, records: list[Record], pack_from_one: None) -> None:
    store.finish(records[0])
    lease = Lease.take(store.folder / "work" / "pack")
    assert lease
    store.pack()
    assert single(store, records[0]).exists()
    lease.release()
    store.pack()
    assert not single(store, records[0]).exists()


def test_a_packer_whose_lease_is_taken_over_writes_nothing_more(
    store: Store, records: list[Record], pack_from_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first pack, then before it removes what that holds."""
    for record in records:
        store.finish(record)

    def losing(function: Callable[..., Any]) -> Callable[..., Any]:
        def lost(*words: Any) -> Any:
            (store.folder / "work" / "pack" / "lease.1").unlink(missing_ok=True)
            return function(*words)

        return lost

    for place, name, packs in ((Store, "_read", 0), (store_module, "write", 1)):
        with monkeypatch.context() as other:
            other.setattr(place, name, losing(getattr(place, name)))
            store.pack()
        assert len(list(store.records_folder.glob("*.jsonl"))) == packs
        assert all(single(store, record).exists() for record in records)


def test_readers_see_every_record_while_others_pack_and_finish(
    packed: Store, records: list[Record], make_record: Make
) -> None:
    """Records go round: finished anew as single files, packed again, and read all the while."""
    over, missed, looks = threading.Event(), [], 0

    def read() -> None:
        nonlocal looks
        reader = Store(packed.folder)
        while not over.is_set():
            looks += 1
            missed.extend(set(by_id(records)) - set(reader.records()))
            missed.extend(record.id for record in records if reader.record(record.id) is None)
        missed.extend(reader.troubles)

    thread = threading.Thread(target=read)
    thread.start()
    for top1 in range(25):
        for record in records:
            packed.finish(make_record(record.cell, top1=float(top1)))
        packed.pack()
    over.set()
    thread.join()
    assert missed == []
    assert looks > 2


def test_a_bad_line_of_a_pack_is_reported_and_the_others_are_kept_through_packing(
    packed: Store, records: list[Record]
) -> None:
    pack = sorted(packed.records_folder.glob("*.jsonl"))[0]
    lines = pack.read_bytes().splitlines(keepends=True)
    lost = msgspec.json.decode(lines[1])["id"]
    lines[1] = lines[1][:100] + b"\n"
    pack.write_bytes(b"".join(lines))
    left = {key: record for key, record in by_id(records).items() if key != lost}

    assert packed.records() == left
    (trouble,) = packed.troubles
    assert f"{pack}, line 2, is not believed" in trouble
    assert packed.record(lost) is None

    packed.finish(by_id(records)[lost])  # it is missing, so it is run again
    packed.pack()
    fresh = Store(packed.folder)
    assert fresh.records() == by_id(records)
    assert fresh.troubles == []
    (aside,) = packed.damaged_folder.iterdir()
    assert aside.read_bytes() == lines[1]


def test_a_cell_that_is_finished_twice_has_its_last_record(packed: Store, make_record: Make) -> None:
    cell = next(iter(packed.records().values())).cell
    packed.finish(make_record(cell, top1=99.0))
    for _ in range(2):
        assert packed.records()[cell.id].result.top1 == 99.0
        assert packed.record(cell.id).result.top1 == 99.0  # type: ignore[union-attr]
        packed.pack()


def test_a_record_with_fields_of_a_newer_version_is_read_and_keeps_them_when_packed(
    store: Store, records: list[Record], pack_from_one: None
) -> None:
    newer = json.loads(pretty(records[0]))
    newer["notes"] = ["by a newer kdbench"]
    newer["result"]["ece"] = 0.25
    write(single(store, records[0]), json.dumps(newer, indent=1).encode())
    store.pack()
    assert store.records() == by_id(records[:1])
    (pack,) = store.records_folder.iterdir()
    assert json.loads(pack.read_bytes()) == newer


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (b'"cell":{', b'"cell":{"mood":1,', "Object contains unknown field `mood` - at `$.cell`"),
        (b'"schedule":"constant"', b'"schedule":"cosine"', "Invalid enum value 'cosine' - at `$.cell.recipe.schedule`"),
        (b'"format":1', b'"format":2', "its format is 2"),
    ],
)
def test_a_record_of_a_newer_version_is_refused_and_stays(
    store: Store, records: list[Record], is_packed: bool, ours: bytes, theirs: bytes, why: str
) -> None:
    """Taken for missing or for damaged, its cell would be run again and the record overwritten."""
    file = store.records_folder / ("pack.jsonl" if is_packed else f"{records[0].id}.json")
    content = msgspec.json.encode(records[0]).replace(ours, theirs, 1) + b"\n"
    write(file, content)
    write(store.weights(records[0].cell), b"theirs")
    place = re.escape(f"{file}, line 1" if is_packed else str(file))
    for act in (store.records, store.outlines, lambda: store.finish(records[0], b"mine")):
        with pytest.raises(Refusal, match=f"^{place}: it must be read by a newer kdbench: {re.escape(why)}$"):
            act()
    assert files(store.folder) == sorted([f"records/{file.name}", f"teachers/{records[0].id}.safetensors"])
    assert file.read_bytes() == content
    assert store.weights(records[0].cell).read_bytes() == b"theirs"


def test_of_two_lines_of_one_cell_the_first_is_believed_and_kept(
    packed: Store, records: list[Record], make_record: Make, make_cell: Make
) -> None:
    """As when git has merged two packs."""
    pack = sorted(packed.records_folder.glob("*.jsonl"))[0]
    first = msgspec.json.decode(pack.read_bytes().splitlines()[0], type=Record)
    pack.write_bytes(pack.read_bytes() + msgspec.json.encode(make_record(first.cell, top1=1.0)) + b"\n")
    for _ in range(2):
        found = Store(packed.folder)
        assert found.records()[first.id] == first
        packed.finish(make_record(make_cell(seed=77)))
        packed.pack()
    assert found.troubles == []


def test_a_newer_record_that_is_cut_off_is_damaged(store: Store, records: list[Record]) -> None:
    write(single(store, records[0]), pretty(records[0]).replace(b'"seed": 0', b'"seed": 0, "mood": 1')[:-20])
    assert store.records() == {}
    assert "is set aside" in store.troubles[0]


def test_a_data_set_with_a_long_name_is_packed_too(
    store: Store, make_cell: Make, make_record: Make, pack_from_one: None
) -> None:
    records = [make_record(make_cell(dataset=f"imagefolder:/{'long' * 70}/{number}")) for number in range(2)]
    for record in records:
        store.finish(record)
    store.pack()
    (pack,) = store.records_folder.iterdir()
    assert pack.suffix == ".jsonl"
    assert store.records() == by_id(records)


# -- tidying ----------------------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_of_a_finished_cell_is_cleared_up_and_nothing_else(
    store: Store, records: list[Record]
) -> None:
    done, begun, held, weightless = records[:4]
    for record in (done, held):
        store.finish(record, b"weights")
    store.finish(weightless)
    for record in (done, begun, held, weightless):
        write(store.work(record.id) / "checkpoint.pt", b"state")
    lease = Lease.take(store.work(held.id))
    assert lease
    store.tidy()
    assert files(store.folder / "work") == sorted(
        [*(f"{left.id}/checkpoint.pt" for left in (begun, held, weightless)), f"{held.id}/lease.1"]
    )


def test_what_a_packer_that_was_killed_at_the_end_has_left_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "pack"
    program = f"from pathlib import Path\nfrom {Lease.__module__} import Lease\nLease.take(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert list(folder.iterdir())
    Store(tmp_path).tidy()
    assert not folder.exists()
