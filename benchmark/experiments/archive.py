"""Records that go from one person to another: a zip that holds one JSON line a record, in ``records.jsonl``, and, where
they were asked for, teachers' weights under ``teachers/``.

The same records give the same bytes. What is in an archive is believed as little as what lies in a results folder: no
name in it decides where anything is written, and a record must be what it says.
"""

import hashlib
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
from rich.console import Console
from rich.progress import wrap_file

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.legibility import believed
from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.weights import trained
from kdbench.benchmark.experiments.words import counted
from kdbench.benchmark.whole import write, written
from kdbench.refusal import Refusal

RECORDS = "records.jsonl"
LONGEST = 16 * 2**20  # bytes that one record may have; those that were seen have thousands
LARGEST = 8 * 2**30  # and all of them together, or one teacher's weights, when they are unpacked
# What zipfile has been seen to raise for archives that were tampered with.
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


# -- out --------------------------------------------------------------------------------------------------------------


def export(store: Store, grid: Grid | None, file: Path, weights: bool) -> str:
    lines = store.lines(only={cell.id for cell in grid.cells} | grid.teachers.keys() if grid else None)
    if not lines:
        raise Refusal(f"{store.folder} must hold records{f' of {grid.name}' if grid else ''}, got none to export")
    files = sorted((store.folder / "teachers").glob("*.safetensors")) if weights else []
    files = [teacher for teacher in files if teacher.stem in lines]

    if file.is_dir():
        raise Refusal(f"the archive must be a file, got the folder '{file}'")
    file.parent.mkdir(parents=True, exist_ok=True)
    with written(file) as stream, zipfile.ZipFile(stream, "w") as archive:
        _put(archive, RECORDS, (lines[key] + b"\n" for key in sorted(lines)), zipfile.ZIP_DEFLATED)
        for teacher in files:
            _put(archive, _entry(teacher.stem), [teacher.read_bytes()], zipfile.ZIP_STORED)
    return f"{file}: {counted(len(lines), 'record')}" + (
        f", the weights of {counted(len(files), 'teacher')}" if weights else ""
    )


def _put(archive: zipfile.ZipFile, name: str, content: Iterable[bytes], compression: int) -> None:
    """With no time of its own: the same content is the same bytes."""
    about = zipfile.ZipInfo(name)
    about.compress_type, about.external_attr = compression, 0o644 << 16
    with archive.open(about, "w", force_zip64=True) as entry:  # how long it becomes is not known yet
        for part in content:
            entry.write(part)


def _entry(cell_id: str) -> str:
    return f"teachers/{cell_id}.safetensors"


# -- in ---------------------------------------------------------------------------------------------------------------


@dataclass
class Intake:
    """What an archive had to offer."""

    new: int = 0
    same: int = 0
    weights: int = 0
    conflicts: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)  # weights that cannot be looked at without somebody's file

    def text(self, dry_run: bool) -> str:
        verb = "would be imported" if dry_run else "imported"
        parts = [f"{self.new} {verb}", f"{self.same} were here already", f"{len(self.conflicts)} in conflict"]
        parts += [f"{len(self.damaged)} damaged"] if self.damaged else []
        parts += [f"the weights of {counted(self.weights, 'teacher')} {verb}"] if self.weights else []
        parts += [f"the weights of {counted(len(self.unloaded), 'teacher')} left out"] if self.unloaded else []
        return "\n".join([*(f"conflict  {conflict}" for conflict in self.conflicts), ", ".join(parts)])


@dataclass(frozen=True)
class Known:
    """As much of a record as tells whether another has the same bits, and how it is told of where it has not."""

    digest: bytes
    told: str

    @classmethod
    def of(cls, record: Record) -> "Known":
        told = f"{record.result.top1:.2f} (environment {record.environment.key}, {record.environment.finished})"
        return cls(hashlib.blake2b(msgspec.json.encode(record.result)).digest(), told)


def take_in(store: Store, file: Path, dry_run: bool) -> Intake:
    """What is not here yet is added; what is here stays as it is, whatever the archive says."""
    store.only_reads = dry_run
    with _opened(file) as archive:
        return _take_in(store, archive, file, dry_run)


def _opened(file: Path) -> zipfile.ZipFile:
    """An archive whose records are whole: a wrong digit would be believed, and only a checksum over all sees it."""
    try:
        archive = zipfile.ZipFile(file)
        if RECORDS not in archive.namelist():
            raise Refusal(f"{file} must be an archive of records, got one without {RECORDS}")
        if (size := archive.getinfo(RECORDS).file_size) > LARGEST:
            raise Refusal(f"{file} must hold at most {LARGEST:,} bytes of records, got {size:,}")
        with archive.open(RECORDS) as stream:
            while stream.read(2**20):
                pass
    except BROKEN as error:
        if isinstance(error, Refusal) or getattr(error, "filename", None):  # not there, or not to be read
            raise
        raise Refusal(f"{file} must be an archive of records, got something damaged: {error}") from None
    return archive


def _take_in(store: Store, archive: zipfile.ZipFile, file: Path, dry_run: bool) -> Intake:
    names, size = set(archive.namelist()), archive.getinfo(RECORDS).file_size
    intake, known = Intake(), {record.id: Known.of(record) for record in store.each()}
    teachers: list[Record] = []
    bar: dict[str, Any] = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    with archive.open(RECORDS) as raw, wrap_file(cast(BinaryIO, raw), size, description="records", **bar) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            try:
                record, content = _believed(line)
            except ValueError as error:
                intake.damaged.append(f"{file}, record {number}, is not believed: {error}")
                continue
            theirs = Known.of(record)
            if record.id in store.newer:
                told = f"here one of a newer kdbench, there {theirs.told}"
                intake.conflicts.append(f"{record.id}: {told}; what is here stays")
                continue
            mine = known.setdefault(record.id, theirs)
            if mine is theirs:
                intake.new += 1
                if not dry_run:
                    store.add(record, content)
            elif mine.digest == theirs.digest:
                intake.same += 1
            else:
                intake.conflicts.append(f"{record.id}: here {mine.told}, there {theirs.told}; what is here stays")
                continue
            if _entry(record.id) in names:
                teachers.append(record)
    for record in teachers:
        _take_weights(store, archive, record, intake, dry_run)
    if not dry_run:
        store.pack()
    return intake


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Never more of one in memory than a record may have."""
    while line := stream.readline(LONGEST + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST + 1)
        yield line


def _believed(line: bytes) -> tuple[Record, bytes]:
    """A record, and its JSON written as we write it, with what a newer version added."""
    if len(line) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} bytes")
    record = believed(line, Record)
    try:
        return record, msgspec.json.encode(msgspec.json.decode(line))
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from None


def _take_weights(store: Store, archive: zipfile.ZipFile, record: Record, intake: Intake, dry_run: bool) -> None:
    """A teacher's weights, if there are none here and they are those that its record names."""
    place, entry = store.weights(record.cell), _entry(record.id)
    if place.exists():
        return
    if (size := archive.getinfo(entry).file_size) > LARGEST:
        intake.damaged.append(f"{record.id}: its weights must have at most {LARGEST:,} bytes, got {size:,}")
        return
    try:
        extensions.needs(record.cell.files)
    except Refusal as refusal:
        intake.unloaded.append(f"{record.id}: its weights are left out: {refusal}")
        return
    try:
        content = archive.read(entry)
    except BROKEN:
        content = b""
    if not _fit(record, content):
        intake.damaged.append(f"{record.id}: the weights are not its record's, or its network is not known here")
        return
    intake.weights += 1
    if not dry_run:
        write(place, content)


def _fit(record: Record, content: bytes) -> bool:
    """Looked at as a cell does that wants to learn from them."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        store.finish(record, content)
        try:
            trained(record.cell, store)
        except Refusal:
            return False
        return True
