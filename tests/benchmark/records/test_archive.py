"""Records go from one person to another; nothing in an archive is believed that would not be in a results folder."""

import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from kdbench.benchmark import extensions, networks
from kdbench.benchmark.plans.grid import load
from kdbench.benchmark.records import archive
from kdbench.benchmark.records import store as store_module
from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import digest, weights_of

MakeCell, MakeRecord, Command = Callable[..., Cell], Callable[..., Record], Callable[..., Any]


@pytest.fixture
def records(make_cell: MakeCell, make_record: MakeRecord) -> list[Record]:
    return [make_record(make_cell(seed=seed), top1=50 + seed / 7) for seed in range(4)]


@pytest.fixture
def mine(tmp_path: Path, records: list[Record]) -> Store:
    store = Store(tmp_path / "mine")
    for record in records:
        store.finish(record)
    return store


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


@pytest.fixture
def file(tmp_path: Path, mine: Store) -> Path:
    archive.export(mine, tmp_path / "records.zip")
    return tmp_path / "records.zip"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def zipped(file: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return file


def lines(*records: Record) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


# -- out and in -------------------------------------------------------------------------------------------------------


def test_what_is_imported_is_what_was_exported_byte_for_byte(mine: Store, theirs: Store, file: Path) -> None:
    intake = archive.take_in(theirs, file)
    assert (intake.new, intake.same, intake.conflicts, intake.damaged) == (4, 0, [], [])
    assert files(theirs.records_folder) == files(mine.records_folder)
    again = archive.take_in(theirs, file)
    assert (again.new, again.same) == (0, 4)


def test_the_same_records_are_the_same_bytes_packed_or_not(
    mine: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(store_module, "PACK_FROM", 1)
    mine.pack()
    assert not list(mine.records_folder.glob("*.json"))
    archive.export(mine, file)
    assert file.read_bytes() == before


def test_two_that_export_to_one_file_do_not_meet(
    mine: Store, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, put = file.read_bytes(), archive._put

    def slow(*what: Any) -> None:
        monkeypatch.undo()
        archive.export(mine, file)  # another process comes in between
        assert file.read_bytes() == whole
        put(*what)

    monkeypatch.setattr(archive, "_put", slow)
    archive.export(mine, file)
    assert file.read_bytes() == whole
    assert {found.name for found in tmp_path.iterdir()} == {"mine", file.name}


def test_a_grid_narrows_what_goes_out_to_its_cells_and_their_teachers(
    mine: Store, theirs: Store, tmp_path: Path, make_record: MakeRecord, kdbench: Command
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("datasets: digits\npairs: resnet14x0.25 -> resnet8x0.25\nmethods: kd\nrecipe: quick\n")
    (cell,) = load(str(grid)).cells
    assert cell.teacher
    for asked in (cell, cell.teacher):
        mine.finish(make_record(asked))
    assert kdbench("records", "export", grid, "--to", tmp_path / "some.zip", "--results", mine.folder).code == 0
    archive.take_in(theirs, tmp_path / "some.zip")
    assert theirs.records().keys() == {cell.id, cell.teacher.id}


def test_what_is_no_file_is_not_replaced_and_a_link_stays_one(kdbench: Command, mine: Store, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link.zip"
    os.mkfifo(pipe)
    link.symlink_to("target.zip")
    assert "the archive must be a file, got the device" in kdbench(
        "records", "export", "--to", pipe, "--results", mine.folder
    ).sentence  # fmt: skip
    assert pipe.is_fifo()
    assert kdbench("records", "export", "--to", link, "--results", mine.folder).code == 0
    assert link.is_symlink() and (tmp_path / "target.zip").is_file()


def test_of_a_grid_without_records_nothing_goes_out(kdbench: Command, tmp_path: Path, mine: Store) -> None:
    assert "must hold records of the grid" in kdbench(
        "records", "export", "quickstart", "--to", tmp_path / "q.zip", "--results", mine.folder
    ).sentence  # fmt: skip
    assert not (tmp_path / "q.zip").exists()


def test_what_a_newer_version_added_stays(theirs: Store, tmp_path: Path, records: list[Record]) -> None:
    newer = msgspec.json.decode(msgspec.json.encode(records[0])) | {"mood": {"good": [1, 2.5]}}
    archive.take_in(theirs, zipped(tmp_path / "a.zip", {archive.RECORDS: msgspec.json.encode(newer)}))
    kept = (theirs.records_folder / f"{records[0].id}.json").read_bytes()
    assert msgspec.json.decode(kept)["mood"] == {"good": [1, 2.5]}


def test_records_of_a_users_own_method_need_no_code(
    kdbench: Command, theirs: Store, tmp_path: Path, make_cell: MakeCell, make_record: MakeRecord
) -> None:
    cell = msgspec.structs.replace(make_cell("kd", "big"), method="nobody_knows", code={"mine.py": "00"})
    made = zipped(tmp_path / "a.zip", {archive.RECORDS: lines(make_record(cell))})
    assert kdbench("records", "import", made, "--results", theirs.folder).code == 0
    assert list(theirs.records()) == [cell.id]


# -- conflicts --------------------------------------------------------------------------------------------------------


def test_a_conflict_is_shown_and_what_is_here_stays(
    kdbench: Command, theirs: Store, file: Path, records: list[Record], make_record: MakeRecord
) -> None:
    theirs.finish(make_record(records[1].cell, top1=77.0, environment="there"))
    before = files(theirs.records_folder)
    answer = kdbench("records", "import", file, "--results", theirs.folder)
    assert answer.code == 1
    assert f"conflict  {records[1].id}: here 77.00 (environment there, " in answer.out
    assert "3 imported, 0 already here, 1 in conflict" in answer.out
    assert files(theirs.records_folder).items() > before.items()


def test_the_same_result_at_another_cost_is_no_conflict(
    theirs: Store, file: Path, records: list[Record], make_record: MakeRecord
) -> None:
    theirs.finish(make_record(records[0].cell, top1=50.0, seconds=99.0))
    intake = archive.take_in(theirs, file)
    assert (intake.new, intake.same, intake.conflicts) == (3, 1, [])


def test_what_is_here_is_not_held_in_memory(mine: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "records", None)  # whoever asks for all of them at once now falls
    assert archive.take_in(mine, file).same == 4


def test_a_record_that_stands_in_an_archive_twice_is_not_written_over(
    theirs: Store, tmp_path: Path, records: list[Record], make_record: MakeRecord
) -> None:
    other = make_record(records[0].cell, top1=99.0)
    intake = archive.take_in(theirs, zipped(tmp_path / "a.zip", {archive.RECORDS: lines(records[0], other)}))
    assert (intake.new, len(intake.conflicts)) == (1, 1)
    assert theirs.records()[records[0].id].result.top1 == 50.0


def test_a_dry_run_says_the_same_and_changes_nothing(kdbench: Command, theirs: Store, file: Path) -> None:
    answer = kdbench("records", "import", file, "--dry-run", "--results", theirs.folder)
    assert answer.code == 0 and "4 would be imported" in answer.out
    assert not theirs.folder.exists()


def test_a_dry_run_tells_of_what_is_damaged_here_and_leaves_it(
    theirs: Store, file: Path, records: list[Record]
) -> None:
    single, pack = theirs.records_folder / f"{records[0].id}.json", theirs.records_folder / "pack.jsonl"
    for place in (single, pack):
        store_module.write(place, b"{")
    before = files(theirs.folder)
    reader = Store(theirs.folder, only_reads=True)
    assert archive.take_in(reader, file).new == 4
    assert [trouble.partition(" not believed: ")[0] for trouble in reader.troubles] == [
        f"{single} is",
        f"{pack}, line 1, is",
    ]
    assert files(theirs.folder) == before
    archive.take_in(theirs, file)
    assert len(list(theirs.damaged_folder.iterdir())) == 2


# -- what is not believed ---------------------------------------------------------------------------------------------


def test_what_is_damaged_is_reported_and_the_others_come_in(
    kdbench: Command, theirs: Store, tmp_path: Path, records: list[Record]
) -> None:
    first, second, third, _ = (msgspec.json.encode(record) for record in records)
    forged = second.replace(b'"seed":1', b'"seed":8')
    deep = first[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    made = zipped(tmp_path / "a.zip", {archive.RECORDS: b"\n".join([first, forged, b"\xff{", deep, third[:-9], third])})
    answer = kdbench("records", "import", made, "--results", theirs.folder)
    assert answer.code == 1 and "2 imported" in answer.out and "4 damaged" in answer.out
    assert [f"record {n}, is skipped" in answer.err for n in range(1, 7)] == [False, True, True, True, True, False]
    assert set(theirs.records()) == {records[0].id, records[2].id}


def test_a_record_that_needs_a_newer_version_is_skipped_and_says_so(
    theirs: Store, tmp_path: Path, records: list[Record]
) -> None:
    newer = msgspec.json.encode(records[0]).replace(b'"cell":{', b'"cell":{"mood":1,', 1)
    intake = archive.take_in(theirs, zipped(tmp_path / "a.zip", {archive.RECORDS: newer}))
    (damaged,) = intake.damaged
    assert "record 1, is skipped: it must be read by a newer kdbench: Object contains unknown field `mood`" in damaged
    assert not theirs.records()


def test_no_name_in_an_archive_decides_where_anything_is_written(
    theirs: Store, tmp_path: Path, records: list[Record], make_cell: MakeCell, make_record: MakeRecord
) -> None:
    evil = make_record(make_cell(student="../../../evil", dataset=".."))
    entries = {
        archive.RECORDS: lines(records[0], evil),
        "../evil.json": b"{}",
        "/tmp/evil": b"",
        "teachers/../../e": b"e",
    }
    archive.take_in(theirs, zipped(tmp_path / "a.zip", entries))
    assert set(files(theirs.folder)) == {f"records/{records[0].id}.json", f"records/{evil.id}.json"}
    assert {f.name for f in tmp_path.iterdir()} == {"theirs", "a.zip"}


def test_a_wrong_digit_in_an_archive_is_seen(theirs: Store, tmp_path: Path, records: list[Record]) -> None:
    made = tmp_path / "a.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as whole:
        whole.writestr(archive.RECORDS, lines(records[0]))
    made.write_bytes(made.read_bytes().replace(b'"top1":50.0', b'"top1":90.0', 1))
    with pytest.raises(ValueError, match="got something damaged: Bad CRC"):
        archive.take_in(theirs, made)
    assert not theirs.folder.exists()


def test_what_would_unpack_without_end_is_refused(
    theirs: Store, file: Path, tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LONGEST", 5000)
    long = b" " * 20_000 + lines(records[0])
    intake = archive.take_in(theirs, zipped(tmp_path / "a.zip", {archive.RECORDS: long + lines(records[1])}))
    assert (intake.new, len(intake.damaged)) == (1, 1) and "longer than 5,000 bytes" in intake.damaged[0]
    monkeypatch.setattr(archive, "LARGEST", 100)
    with pytest.raises(ValueError, match="must hold at most 100 bytes of records"):
        archive.take_in(theirs, file)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + b"\x00" * 30, None])
def test_what_is_no_archive_is_refused(content: bytes | None, kdbench: Command, tmp_path: Path) -> None:
    made = tmp_path / "a.zip"
    if content is not None:
        made.write_bytes(content)
    assert str(made) in kdbench("records", "import", made, "--results", tmp_path / "theirs").sentence
    zipped(made, {"something.txt": b""})
    assert "one without records.jsonl" in kdbench("records", "import", made, "--results", tmp_path / "theirs").sentence


def test_no_damage_to_an_archive_ends_in_a_traceback(theirs: Store, file: Path, tmp_path: Path) -> None:
    """Bits flipped and ends cut off, wherever it may be: what still comes in is what was sent."""
    whole, sent = file.read_bytes(), {record.id: record for record in Store(tmp_path / "mine").records().values()}
    generator = random.Random(0)
    for _ in range(150):
        hurt = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            hurt[generator.randrange(len(hurt))] ^= 1 << generator.randrange(8)
        (tmp_path / "hurt.zip").write_bytes(hurt[: generator.choice([None, generator.randrange(len(hurt))])])
        shutil.rmtree(theirs.folder, ignore_errors=True)
        try:
            archive.take_in(theirs, tmp_path / "hurt.zip")
        except store_module.Refusal:
            assert not theirs.folder.exists()
        assert theirs.records().items() <= sent.items()


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(make_cell: MakeCell, make_record: MakeRecord) -> tuple[Record, bytes]:
    torch.manual_seed(0)
    network = networks.build("resnet8x0.25", 10, (1, 8, 8))
    record = make_record(make_cell(seed=9))
    record.result.weights = digest(network)
    return record, weights_of(network)


def test_weights_come_with_their_teacher_where_they_were_asked_for(
    kdbench: Command, mine: Store, theirs: Store, tmp_path: Path, teacher: tuple[Record, bytes]
) -> None:
    record, weights = teacher
    mine.finish(record, weights)
    out = ("records", "export", "--to", tmp_path / "a.zip", "--results", mine.folder)
    assert "5 records\n" in kdbench(*out).out
    assert "5 records, the weights of 1 teacher" in kdbench(*out, "--weights").out
    assert "the weights of 1 teacher imported" in kdbench(
        "records", "import", tmp_path / "a.zip", "--results", theirs.folder
    ).out  # fmt: skip
    assert theirs.weights(record.cell).read_bytes() == weights


@pytest.mark.parametrize("wrong", [b"", b"no weights", b"other"])
def test_weights_that_are_not_the_records_are_left_out(
    wrong: bytes, theirs: Store, tmp_path: Path, teacher: tuple[Record, bytes]
) -> None:
    record, weights = teacher
    content = wrong if wrong != b"other" else weights[:-4] + b"\x00\x00\x00\x40"
    entries = {archive.RECORDS: lines(record), f"teachers/{record.id}.safetensors": content}
    intake = archive.take_in(theirs, zipped(tmp_path / "a.zip", entries))
    assert (intake.new, intake.weights, len(intake.damaged)) == (1, 0, 1)
    assert not theirs.weights(record.cell).exists()


def test_weights_of_a_users_own_network_wait_for_its_file(
    kdbench: Command, theirs: Store, tmp_path: Path, teacher: tuple[Record, bytes], make_record: MakeRecord
) -> None:
    (tmp_path / "mine.py").write_text(
        "from kdbench.benchmark import networks\n"
        "networks.network('mine')(lambda classes, image: networks.build('resnet8x0.25', classes, image))\n"
    )
    code = {"mine.py": extensions._digest(tmp_path / "mine.py")}
    cell = msgspec.structs.replace(teacher[0].cell, student="mine", code=code)
    record = make_record(cell)
    record.result.weights = teacher[0].result.weights
    entries = {archive.RECORDS: lines(record), f"teachers/{record.id}.safetensors": teacher[1]}
    asked = ("records", "import", zipped(tmp_path / "a.zip", entries), "--results", theirs.folder)
    answer = kdbench(*asked)
    assert (answer.code, answer.out) == (
        1, "1 imported, 0 already here, 0 in conflict, the weights of 1 teacher skipped\n"
    )  # fmt: skip
    assert answer.err == (
        f"kdbench: {cell.id}: its weights are skipped: mine.py must be loaded for this cell: pass it with --with\n"
    )
    assert "the weights of 1 teacher imported\n" in kdbench(*asked, "--with", tmp_path / "mine.py").out
    assert theirs.weights(cell).read_bytes() == teacher[1]


def test_weights_that_are_here_stay(theirs: Store, tmp_path: Path, teacher: tuple[Record, bytes]) -> None:
    record, weights = teacher
    theirs.finish(record, b"mine")
    entries = {archive.RECORDS: lines(record), f"teachers/{record.id}.safetensors": weights}
    assert archive.take_in(theirs, zipped(tmp_path / "a.zip", entries)).weights == 0
    assert theirs.weights(record.cell).read_bytes() == b"mine"
