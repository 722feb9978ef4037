"""A results folder: records, failures, teachers' weights, and the work in progress.

    records/    one JSON file per finished cell; if there are many, one pack per pair with a JSON line per cell
    failures/   why a cell has no record
    teachers/   weights by cell id, findings about them, and the teachers' memories
    work/       checkpoints, leases and progress of running cells; the outlines of packs, cached for plans
    damaged/    files that were found damaged

A cell is finished if its record parses and names this cell. A record is written beside its place and renamed into it.
Nothing else counts: no log, no pickle, no scheduler.
"""

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.legibility import Named, Newer, T, believed, decoded, indented, pretty
from kdbench.benchmark.records.outline import Kept, Outline, kept, outdated, state
from kdbench.benchmark.records.record import Brief, Failure, Record, same_bits
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal

PACK_FROM = 200  # single files; from this number on they are packed
READ_AT_ONCE = 2**20  # bytes; with Python's default of a few thousand, reading a pack takes three times as long
LONGEST = 200  # characters of a pack's name; a file's name may have 255, and is longer while the file is written
ABANDONED = 3600.0  # seconds after which an unfinished file no longer has a writer

R = TypeVar("R", Record, Brief)


class Finding(msgspec.Struct, frozen=True):
    """A finding about a teacher."""

    weights: str  # digest of the teacher's weights at the time
    found: Any


class Store:
    def __init__(self, folder: Path, *, only_reads: bool = False) -> None:
        if folder.exists() and not folder.is_dir():
            raise Refusal(f"the results must go to a folder, got the file {folder}")
        self.folder = folder
        self.records_folder = folder / "records"
        self.failures_folder = folder / "failures"
        self.damaged_folder = folder / "damaged"
        self.troubles: list[str] = []  # a sentence for each damaged file or line
        self.only_reads = only_reads  # damaged files are then reported but not moved
        self._known: dict[Path, tuple[tuple[int, ...], frozenset[str]]] = {}  # by pack: the state of its file, its ids

    # -- records ------------------------------------------------------------------------------------------------------

    def records(self, only: Set[str] | None = None) -> dict[str, Record]:
        """All records by id, or those of these cells."""
        return {record.id: record for record in self.each(only)}

    def each(self, only: Set[str] | None = None) -> Iterator[Record]:
        """The same, one by one."""
        return self._all(Record, only)

    def briefs(self, only: Set[str] | None = None) -> Iterator[Brief]:
        """All records without their curves, one by one: a hundred thousand need no memory."""
        return self._all(Brief, only)

    def _all(self, kind: type[R], only: Set[str] | None = None) -> Iterator[R]:
        """Single files first, then packs: a record that is just being packed is seen at least once."""
        self._sweep(self.records_folder)
        single, packed = set(), set()
        for file in self._singles(only):
            if record := self._read(file, kind):
                single.add(record.id)
                yield record
        for pack in self._packs():
            for record, _ in self._unpack(pack, kind, only):
                if record.id in packed:
                    self._report(f"{pack}: {record.id} is in a pack twice, and the first is used")
                elif record.id not in single:
                    yield record
                packed.add(record.id)

    def outlines(self) -> dict[str, Outline]:
        """The outlines of all records by id."""
        self._sweep(self.records_folder)
        singles = [record for file in self._singles() if (record := self._read(file, Brief))]
        found = {record.id: Outline.of(record) for record in singles}
        for pack in self._packs():
            for line in self._outlined(pack):
                found.setdefault(line.id, line)
        return found

    def _outlined(self, pack: Path) -> list[Outline]:
        """The outlines of a pack. They are cached, so a pack is read once; but not if one of its lines is damaged."""
        file, now = self.folder / "work" / "outlines" / f"{pack.stem}.msgpack", state(pack)
        if (known := kept(file, now)) is not None:
            return known
        outlines = [Outline.of(record) for record, _ in self._unpack(pack, Brief)]
        if not self.only_reads and not any(trouble.startswith(f"{pack}, ") for trouble in self.troubles):
            with contextlib.suppress(OSError):  # a plan works in a read-only folder too
                write(file, msgspec.msgpack.encode(Kept(now, outlines)))
        return outlines

    def lines(self, only: Set[str] | None = None) -> dict[str, bytes]:
        """Each record's JSON on one line, by id, including fields that a newer version added."""
        found: dict[str, bytes] = {}
        for file in self._singles(only):
            with contextlib.suppress(FileNotFoundError):  # just packed by another process: found below
                content = file.read_bytes()
                if record := self._read(file, Record):
                    found[record.id] = msgspec.json.format(content, indent=-1)
        for pack in self._packs():
            for record, line in self._unpack(pack, Record, only):
                found.setdefault(record.id, line)
        return found

    def add(self, record: Record, line: bytes) -> None:
        """Add a record from elsewhere, with all fields of its JSON line."""
        write(self.records_folder / f"{record.id}.json", indented(line))
        self.forgive(record.id)

    def record(self, cell_id: str) -> Record | None:
        if record := self._read(self.records_folder / f"{cell_id}.json", Record):
            return record
        return next((record for pack in self._packs() for record, _ in self._unpack(pack, Record, {cell_id})), None)

    def _ids(self, pack: Path) -> frozenset[str]:
        """The ids of the records in a pack, which is read again only after it has changed."""
        now = state(pack)
        if pack not in self._known or self._known[pack][0] != now:
            self._known[pack] = now, frozenset(outline.id for outline in self._outlined(pack))
        return self._known[pack][1]

    def _singles(self, only: Set[str] | None = None) -> list[Path]:
        return [file for file in sorted(self.records_folder.glob("*.json")) if only is None or file.stem in only]

    def _packs(self) -> list[Path]:
        return sorted(self.records_folder.glob("*.jsonl"))

    def finish(self, record: Record, weights: bytes | None = None) -> None:
        """Store a finished cell. A record that is here and has the same bits is kept, since other records refer to it.
        Otherwise old weights are removed first and new ones written last: weights are never beside another record."""
        before = self.record(record.id)
        file = self.weights(record.cell)
        if before is None or not same_bits(before.result, record.result):
            if weights is not None:
                file.unlink(missing_ok=True)
            write(self.records_folder / f"{record.id}.json", pretty(record))
        if weights is not None and not file.exists():
            write(file, weights)
            self._forget(record)
        self.forgive(record.id)

    def pack(self) -> None:
        """Pack many single records into one file per pair. A kill may leave a record twice, but never loses one."""
        singles, folder = self._singles(), self.folder / "work" / "pack"
        begun = folder.exists()  # a process that was killed while packing, even at the very end, leaves its lease
        if not (begun or len(singles) >= PACK_FROM) or not (lease := Lease.take(folder)):
            return
        with lease:
            packs: dict[Path, dict[str, bytes]] = {}  # lines by id
            seen: dict[str, tuple[int, ...]] = {}
            for file in singles:
                with contextlib.suppress(FileNotFoundError):  # just packed by another process
                    now = state(file)
                    if record := self._read(file, Record):
                        name = f"{record.cell.dataset} {record.cell.pair}"
                        name = re.sub(r"[^\w.]+", "_", name, flags=re.ASCII)[:LONGEST]
                        line = msgspec.json.format(file.read_bytes(), indent=-1)  # keeps fields of newer versions
                        packs.setdefault(self.records_folder / f"{name}.jsonl", {})[record.id] = line
                        seen[record.id] = now
            for pack, fresh in packs.items():
                there: dict[str, bytes] = {}
                for record, line in self._unpack(pack, Record) if pack.exists() else ():
                    there.setdefault(record.id, line)  # if a cell has two lines, the first is used
                if not lease.holds():  # records that another process has packed since would be lost
                    return
                write(pack, b"".join(line + b"\n" for _, line in sorted((there | fresh).items())))
                for cell_id in fresh:
                    if not lease.holds():
                        return
                    file = self.records_folder / f"{cell_id}.json"
                    with contextlib.suppress(FileNotFoundError):
                        if state(file) == seen[cell_id]:  # else it was just rewritten, and overrides the pack's
                            file.unlink()

    # -- failures -----------------------------------------------------------------------------------------------------

    def failures(self) -> dict[str, Failure]:
        files = sorted(self.failures_folder.glob("*.json"))
        return {failure.id: failure for file in files if (failure := self._read(file, Failure))}

    def failure(self, cell_id: str) -> Failure | None:
        return self._read(self.failures_folder / f"{cell_id}.json", Failure)

    def fail(self, failure: Failure) -> None:
        write(self.failures_folder / f"{failure.id}.json", pretty(failure))

    def forgive(self, cell_id: str) -> None:
        """Delete a failure, so that the cell is run again."""
        (self.failures_folder / f"{cell_id}.json").unlink(missing_ok=True)

    # -- weights and work ---------------------------------------------------------------------------------------------

    def weights(self, cell: Cell | Outline) -> Path:
        return self.folder / "teachers" / f"{cell.id}.safetensors"

    def distrust(self, teacher: Cell, why: str) -> None:
        """Set a teacher's weights aside, so that it is retrained."""
        file = self.weights(teacher)
        self._set_aside(file, file.read_bytes(), why)

    def remembered(self, teacher: Record, name: str, find: Callable[[], Any]) -> Any:
        """A finding about a teacher, cached beside its weights; ``find`` is called if it is missing."""
        file = self.folder / "teachers" / f"{teacher.id}.{name}.json"
        try:
            known = msgspec.json.decode(file.read_bytes(), type=Finding)
        except (FileNotFoundError, ValueError):
            known = None
        if known is None or known.weights != teacher.result.weights:  # missing, damaged, or of other weights
            write(file, msgspec.json.encode(Finding(teacher.result.weights, find())))
            return self.remembered(teacher, name, find)  # as it is read the next time
        return known.found

    def memory(self, teacher: Record, **about: Any) -> Path:
        """The folder of a teacher's memory. Everything that changes the answers gives another folder, and is described
        in a file beside them."""
        told = {"what": "a teacher's answers: rows of fp16, one a view of a training image; zero: not asked yet"}
        told |= {"teacher": teacher.id, "weights": teacher.result.weights} | about
        content = msgspec.json.format(msgspec.json.encode(told, order="sorted"), indent=2)
        folder = self.memories(teacher.id) / hashlib.blake2b(content, digest_size=6).hexdigest()
        write(folder / "about.json", content)
        return folder

    def memories(self, teacher_id: str) -> Path:
        return self.folder / "teachers" / f"{teacher_id}.memory"

    def _forget(self, teacher: Record) -> None:
        """Remove the memories of a teacher's earlier weights. Processes that still read them can go on."""
        for about in self.memories(teacher.id).glob("*/about.json"):
            if teacher.result.weights.encode() not in about.read_bytes():
                shutil.rmtree(about.parent, ignore_errors=True)

    def work(self, cell_id: str) -> Path:
        return self.folder / "work" / cell_id

    def clear(self, cell_id: str) -> None:
        """Remove a finished cell's checkpoints, and drafts of leases by processes that were killed. The caller must
        hold the cell's lease."""
        for file in self.work(cell_id).glob("*"):
            if not file.name.startswith("lease."):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Pack records, and clean up after processes that were killed after their results were written."""
        self.pack()
        for folder in (self.failures_folder, self.folder / "teachers"):
            self._sweep(folder)
        finished = self.outlines()
        for folder in (self.folder / "work").glob("*"):
            record = finished.get(folder.name)
            if record and not self._to_be_run_again(record, finished) and (lease := Lease.take(folder)):
                self.clear(record.id)
                lease.release()

    def _to_be_run_again(self, record: Outline, records: Mapping[str, Outline]) -> bool:
        """Whether a cell may be run again, which needs its checkpoint: it is outdated, or a teacher without weights."""
        teaches = record.method == "ce" and not record.tasks
        return outdated(record, records) or (teaches and not self.weights(record).exists())

    # -- reading and damage -------------------------------------------------------------------------------------------

    def _read(self, file: Path, kind: type[T]) -> T | None:
        """Read a record. A file that does not parse or does not match its name is set aside and reported."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # missing, or just packed or set aside by another process
            return None
        try:
            found = believed(content, kind)
            if found.id != file.stem:
                raise ValueError(f"it holds the cell {found.id}")
        except Newer as newer:
            raise Refusal(f"{file}: {newer}") from None
        except ValueError as error:
            self._set_aside(file, content, str(error))
            return None
        return found

    def _unpack(self, pack: Path, kind: type[R], only: Set[str] | None = None) -> Iterator[tuple[R, bytes]]:
        """Each record with its line. A damaged line is copied aside, and is dropped by the next packing."""
        if only is not None and self._ids(pack).isdisjoint(only):
            return
        with pack.open("rb", buffering=READ_AT_ONCE) as lines:  # one line at a time: packs are large
            for number, line in enumerate(map(bytes.rstrip, lines), start=1):
                try:
                    if only is None or decoded(line, Named).id in only:
                        yield believed(line, kind), line
                except Newer as newer:
                    raise Refusal(f"{pack}, line {number}: {newer}") from None
                except ValueError as error:
                    if not self.only_reads:
                        write(self._aside(pack, line), line + b"\n")
                    self._report(f"{pack}, line {number}, is not believed: {error}")

    def _sweep(self, folder: Path) -> None:
        """Set aside the unfinished files of writers that were killed."""
        for part in folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > ABANDONED:
                    self._set_aside(part, part.read_bytes(), "its writer did not finish")

    def _set_aside(self, file: Path, content: bytes, why: str) -> None:
        if self.only_reads:
            self._report(f"{file} is not believed: {why}")
            return
        place = self._aside(file, content)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            file.replace(place)
        self._report(f"{file} is set aside as {place}: {why}")

    def _aside(self, file: Path, content: bytes) -> Path:
        """A name by content: files that were set aside before are never overwritten."""
        self.damaged_folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(content, digest_size=4).hexdigest()
        return self.damaged_folder / f"{file.stem.lstrip('.')}.{digest}{file.suffix}"

    def _report(self, trouble: str) -> None:
        if trouble not in self.troubles:
            self.troubles.append(trouble)
