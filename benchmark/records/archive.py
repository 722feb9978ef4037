"""Archives with which people exchange records: a zip with one JSON line per record in ``records.jsonl`` and, on
request, teachers' weights under ``teachers/``.

The same records give the same bytes. An archive is trusted no more than a results folder: no name in it decides where
anything is written, and a record's id must match its cell.
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
from kdbench.benchmark.records.legibility import believed
from kdbench.benchmark.records.record import Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import trained
from kdbench.benchmark.whole import write, written
from kdbench.benchmark.words import counted
from kdbench.refusal import Refusal

RECORDS = "records.jsonl"
LONGEST = 16 * 2**20  # bytes that one record may have; real ones have thousands
LARGEST = 8 * 2**30  # bytes that all records together, or one teacher's weights, may have when unpacked
# Exceptions that zipfile was seen to raise for archives that were tampered with.
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


# -- out --------------------------------------------------------------------------------------------------------------


def export(store: Store, file: Path, weights: bool = False, only: set[str] | None = None) -> str:
    """``only``: the ids of the records to export; all by default."""
    lines = store.lines(only)
    if not lines:
        raise Refusal(f"{store.folder} must hold records{' of the grid' if only else ''}, got none to export")
    files = sorted((store.folder / "teachers").glob("*.safetensors")) if weights else []
    files = [teacher for teacher in files if teacher.stem in lines]

    if file.exists() and not file.is_file():
        raise Refusal(f"the archive must be a file, got the {'folder' if file.is_dir() else 'device'} '{file}'")
    file.parent.mkdir(parents=True, exist_ok=True)
    with written(file.resolve()) as stream, zipfile.ZipFile(stream, "w") as archive:
        _put(archive, RECORDS, (lines[key] + b"\n" for key in sorted(lines)), zipfile.ZIP_DEFLATED)
        for teacher in files:
            _put(archive, _entry(teacher.stem), [teacher.read_bytes()], zipfile.ZIP_STORED)
    return f"{file}: {counted(len(lines), 'record')}" + (
        f", the weights of {counted(len(files), 'teacher')}" if weights else ""
    )


def _put(archive: zipfile.ZipFile, name: str, content: Iterable[bytes], compression: int) -> None:
    """Write an entry without a timestamp: the same content gives the same bytes."""
    about = zipfile.ZipInfo(name)
    about.compress_type, about.external_attr = compression, 0o644 << 16
    with archive.open(about, "w", force_zip64=True) as entry:  # its size is not known yet
        for part in content:
            entry.write(part)


def _entry(cell_id: str) -> str:
    return f"teachers/{cell_id}.safetensors"


# -- in ---------------------------------------------------------------------------------------------------------------


@dataclass
class Intake:
    """What an import finds in an archive."""

    new: int = 0
    same: int = 0
    weights: int = 0
    conflicts: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)  # weights that cannot be checked without a user's file

    def text(self, dry_run: bool) -> str:
        verb = "would be imported" if dry_run else "imported"
        parts = [f"{self.new} {verb}", f"{self.same} already here", f"{len(self.conflicts)} in conflict"]
        parts += [f"{len(self.damaged)} damaged"] if self.damaged else []
        parts += [f"the weights of {counted(self.weights, 'teacher')} {verb}"] if self.weights else []
        parts += [f"the weights of {counted(len(self.unloaded), 'teacher')} skipped"] if self.unloaded else []
        return "\n".join([*(f"conflict  {conflict}" for conflict in self.conflicts), ", ".join(parts)])


@dataclass(frozen=True)
class Known:
    """What comparing a record with another one needs: a digest of its result, and its description for a conflict."""

    digest: bytes
    told: str

    @classmethod
    def of(cls, record: Record) -> "Known":
        told = f"{record.result.top1:.2f} (environment {record.environment.key}, {record.environment.finished})"
        return cls(hashlib.blake2b(msgspec.json.encode(record.result)).digest(), told)


def take_in(store: Store, file: Path) -> Intake:
    """Add the records that are missing here. Records that are here already are never changed."""
    with _opened(file) as archive:
        return _take_in(store, archive, file)


def _opened(file: Path) -> zipfile.ZipFile:
    """Open an archive and check that its records are intact. A wrong digit in a record would go unnoticed otherwise:
    only the checksum over all records reveals it."""
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
        if isinstance(error, Refusal) or getattr(error, "filename", None):  # missing or unreadable file
            raise
        raise Refusal(f"{file} must be an archive of records, got something damaged: {error}") from None
    return archive


def _take_in(store: Store, archive: zipfile.ZipFile, file: Path) -> Intake:
    names, size = set(archive.namelist()), archive.getinfo(RECORDS).file_size
    intake, known = Intake(), {record.id: Known.of(record) for record in store.each()}
    teachers: list[Record] = []
    bar: dict[str, Any] = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    with archive.open(RECORDS) as raw, wrap_file(cast(BinaryIO, raw), size, description="records", **bar) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            try:
                record, content = _believed(line)
            except ValueError as error:
                intake.damaged.append(f"{file}, record {number}, is skipped: {error}")
                continue
            theirs = Known.of(record)
            mine = known.setdefault(record.id, theirs)
            if mine is theirs:
                intake.new += 1
                if not store.only_reads:
                    store.add(record, content)
            elif mine.digest == theirs.digest:
                intake.same += 1
            else:
                intake.conflicts.append(f"{record.id}: here {mine.told}, there {theirs.told}; the record here is kept")
                continue
            if _entry(record.id) in names:
                teachers.append(record)
    for record in teachers:
        _take_weights(store, archive, record, intake)
    if not store.only_reads:
        store.pack()
    return intake


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines, without what exceeds ``LONGEST`` + 1 bytes: a longer line must not fill the memory."""
    while line := stream.readline(LONGEST + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST + 1)
        yield line


def _believed(line: bytes) -> tuple[Record, bytes]:
    """A record, and its JSON in our own format, including fields that a newer version added."""
    if len(line) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} bytes")
    record = believed(line, Record)
    try:
        return record, msgspec.json.encode(msgspec.json.decode(line))
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from None


def _take_weights(store: Store, archive: zipfile.ZipFile, record: Record, intake: Intake) -> None:
    """Import a teacher's weights, if there are none here and if they match its record."""
    place, entry = store.weights(record.cell), _entry(record.id)
    if place.exists():
        return
    if (size := archive.getinfo(entry).file_size) > LARGEST:
        intake.damaged.append(f"{record.id}: its weights must have at most {LARGEST:,} bytes, got {size:,}")
        return
    try:
        extensions.needs(record.cell.files)
    except Refusal as refusal:
        intake.unloaded.append(f"{record.id}: its weights are skipped: {refusal}")
        return
    try:
        content = archive.read(entry)
    except BROKEN:
        content = b""
    if not _fit(record, content):
        intake.damaged.append(f"{record.id}: the weights do not match its record, or its network is unknown here")
        return
    intake.weights += 1
    if not store.only_reads:
        write(place, content)


def _fit(record: Record, content: bytes) -> bool:
    """Whether a student could be trained with these weights."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        store.finish(record, content)
        try:
            trained(record.cell, store)
        except Refusal:
            return False
        return True
