"""A results folder: records, failures, teachers' weights, and the work in progress.

    records/    one JSON file a finished cell; many are packed, one JSON line each, into a file a pair
    failures/   why a cell has no record
    teachers/   weights, named by cell id, what was found out about them, and what they have said
    work/       checkpoints and leases of what is running, and how far it is; what plans remember of packs
    damaged/    what was found and could not be believed

A cell is finished when its own record, written beside its place and renamed into it, parses and says that it is this
cell's. Nothing else is believed: no log, no pickle, no scheduler.
"""

import contextlib
import errno
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.lease import Lease
from kdbench.benchmark.experiments.legibility import Named, Newer, T, believed, decoded, indented, pretty
from kdbench.benchmark.experiments.outline import Kept, Outline, kept, outdated, state
from kdbench.benchmark.experiments.record import Brief, Failure, Record, same_bits
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal

PACK_FROM = 200  # single files that may lie about before they are packed
READ_AT_ONCE = 2**20  # bytes; with Python's own few thousand, reading a pack takes three times as long
LONGEST = 200  # letters of a pack's name: with what is added while it is written, a file's may have 255
ABANDONED = 3600.0  # seconds after which a file that was begun has no writer any more

R = TypeVar("R", Record, Brief)


class Finding(msgspec.Struct, frozen=True):
    """What was found out about a teacher."""

    weights: str  # digest of those that it was found with
    found: Any


class Store:
    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise Refusal(f"the results must go to a folder, got the file {folder}")
        self.folder = folder
        self.records_folder = folder / "records"
        self.failures_folder = folder / "failures"
        self.damaged_folder = folder / "damaged"
        self.troubles: list[str] = []  # one sentence for everything that was found damaged
        self.newer: dict[str, Path] = {}  # by id, where records were found that only a newer version can read
        self.only_reads = False  # then what is damaged is told of, and stays
        self._known: dict[Path, tuple[tuple[int, ...], frozenset[str]]] = {}  # ids by pack, and which file it was

    # -- records ------------------------------------------------------------------------------------------------------

    def records(self, only: Set[str] | None = None) -> dict[str, Record]:
        """All records by id, or those of these cells."""
        return {record.id: record for record in self.each(only)}

    def each(self, only: Set[str] | None = None) -> Iterator[Record]:
        """The same one after the other."""
        return self._all(Record, only)

    def briefs(self, only: Set[str] | None = None) -> Iterator[Brief]:
        """All records without their curves, one after the other: a hundred thousand need no memory."""
        return self._all(Brief, only)

    def _all(self, kind: type[R], only: Set[str] | None = None) -> Iterator[R]:
        """Single files come before packs: one that is just being packed is seen at least once."""
        self._sweep(self.records_folder)
        single, packed = set(), set()
        for file in self._singles(only):
            if record := self._read(file, kind):
                single.add(record.id)
                yield record
        for pack in self._packs():
            for record, _ in self._unpack(pack, kind, only):
                if record.id in packed:
                    self._report(f"{pack}: {record.id} is in a pack twice, and the first is believed")
                elif record.id not in single:
                    yield record
                packed.add(record.id)

    def outlines(self) -> dict[str, Outline]:
        """All records by id, as much of them as a plan must know."""
        self._sweep(self.records_folder)
        singles = [record for file in self._singles() if (record := self._read(file, Brief))]
        found = {record.id: Outline.of(record) for record in singles}
        for pack in self._packs():
            for line in self._outlined(pack):
                found.setdefault(line.id, line)
        return found

    def _outlined(self, pack: Path) -> list[Outline]:
        """Kept, so that a pack is read once; but not while a line in it is to be reported."""
        file, now = self.folder / "work" / "outlines" / f"{pack.stem}.msgpack", state(pack)
        if (known := kept(file, now)) is not None:
            return known
        outlines = [Outline.of(record) for record, _ in self._unpack(pack, Brief)]
        if not self.only_reads and not any(trouble.startswith(f"{pack}, ") for trouble in self.troubles):
            with contextlib.suppress(OSError):  # who may only read can plan too
                write(file, msgspec.msgpack.encode(Kept(now, outlines)))
        return outlines

    def lines(self, only: Set[str] | None = None) -> dict[str, bytes]:
        """Each record's JSON on one line, by id: what a newer version added stays."""
        found: dict[str, bytes] = {}
        for file in self._singles(only):
            with contextlib.suppress(FileNotFoundError):  # just packed by another process: it comes below
                content = file.read_bytes()
                if record := self._read(file, Record):
                    found[record.id] = msgspec.json.format(content, indent=-1)
        for pack in self._packs():
            for record, line in self._unpack(pack, Record, only):
                found.setdefault(record.id, line)
        return found

    def add(self, record: Record, line: bytes) -> None:
        """A record from somewhere else, as it was written there."""
        write(self.records_folder / f"{record.id}.json", indented(line))
        self.forgive(record.id)

    def record(self, cell_id: str) -> Record | None:
        """A newer version's is refused: whoever took it for missing would train the cell, and write over it."""
        if record := self._read(self.records_folder / f"{cell_id}.json", Record):
            return record
        packs = self._packs()
        found = next((record for pack in packs for record, _ in self._unpack(pack, Record, {cell_id})), None)
        if place := self.newer.get(cell_id):
            raise FileExistsError(errno.EEXIST, f"the record of {cell_id} is of a newer kdbench, and stays", str(place))
        return found

    def _ids(self, pack: Path) -> frozenset[str]:
        """Of the records in a pack, which is looked into anew only when it has changed."""
        now = state(pack)
        if pack not in self._known or self._known[pack][0] != now:
            self._known[pack] = now, frozenset(outline.id for outline in self._outlined(pack))
        return self._known[pack][1]

    def _singles(self, only: Set[str] | None = None) -> list[Path]:
        return [file for file in sorted(self.records_folder.glob("*.json")) if only is None or file.stem in only]

    def _packs(self) -> list[Path]:
        return sorted(self.records_folder.glob("*.jsonl"))

    def finish(self, record: Record, weights: bytes | None = None) -> None:
        """A record that is here and has the same bits stays: others speak of it. Where it has not, old weights go first
        and the new ones come last: none ever lie beside the record of others."""
        before = self.record(record.id)  # refused where a newer version's is
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
        """Many single records become one file a pair; a kill in the middle leaves a record twice, never not at all."""
        singles, folder = self._singles(), self.folder / "work" / "pack"
        begun = folder.exists()  # one that was killed at it, perhaps at the very end, leaves its lease
        if not (begun or len(singles) >= PACK_FROM) or not (lease := Lease.take(folder)):
            return
        with lease:
            packs: dict[Path, dict[tuple[str, bool], bytes]] = {}  # lines by id, and whether they can be read here
            seen: dict[str, tuple[int, ...]] = {}
            for file in singles:
                with contextlib.suppress(FileNotFoundError):  # just packed by another process
                    now = state(file)
                    if record := self._read(file, Record):
                        name = f"{record.cell.dataset} {record.cell.pair}"
                        name = re.sub(r"[^\w.]+", "_", name, flags=re.ASCII)[:LONGEST]
                        line = msgspec.json.format(file.read_bytes(), indent=-1)  # what a newer version added stays
                        packs.setdefault(self.records_folder / f"{name}.jsonl", {})[record.id, True] = line
                        seen[record.id] = now
            for pack, fresh in packs.items():
                lines = self._lines(pack, Record) if pack.exists() else ()
                there: dict[tuple[str, bool], bytes] = {}
                for cell_id, record, line in lines:  # of two lines of one cell the first is believed
                    there.setdefault((cell_id, record is not None), line)
                if not lease.holds():  # what another has packed since would be lost
                    return
                write(pack, b"".join(line + b"\n" for _, line in sorted((there | fresh).items())))
                for cell_id, _ in fresh:
                    if not lease.holds():
                        return
                    file = self.records_folder / f"{cell_id}.json"
                    with contextlib.suppress(FileNotFoundError):
                        if state(file) == seen[cell_id]:  # else it was finished anew, and comes before the pack's
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
        """Forget a failure, so that the cell is run again."""
        (self.failures_folder / f"{cell_id}.json").unlink(missing_ok=True)

    # -- weights and work ---------------------------------------------------------------------------------------------

    def weights(self, cell: Cell | Outline) -> Path:
        return self.folder / "teachers" / f"{cell.id}.safetensors"

    def distrust(self, teacher: Cell, why: str) -> None:
        """Its weights are set aside, so that it is trained again."""
        file = self.weights(teacher)
        self._set_aside(file, file.read_bytes(), why)

    def remembered(self, teacher: Record, name: str, find: Callable[[], Any]) -> Any:
        """What was found out about a teacher before, kept beside its weights; else it is found out now."""
        file = self.folder / "teachers" / f"{teacher.id}.{name}.json"
        try:
            known = msgspec.json.decode(file.read_bytes(), type=Finding)
        except (FileNotFoundError, ValueError):
            known = None
        if known is None or known.weights != teacher.result.weights:  # never seen, damaged, or of an earlier training
            write(file, msgspec.json.encode(Finding(teacher.result.weights, find())))
            return self.remembered(teacher, name, find)  # as it will be read the next time
        return known.found

    def memory(self, teacher: Record, **about: Any) -> Path:
        """The folder of a teacher's answers: another one for all that changes them, told in a file beside them."""
        told = {"what": "a teacher's answers: rows of fp16, one a view of a training image; zero: not asked yet"}
        told |= {"teacher": teacher.id, "weights": teacher.result.weights} | about
        content = msgspec.json.format(msgspec.json.encode(told, order="sorted"), indent=2)
        folder = self.memories(teacher.id) / hashlib.blake2b(content, digest_size=6).hexdigest()
        write(folder / "about.json", content)
        return folder

    def memories(self, teacher_id: str) -> Path:
        return self.folder / "teachers" / f"{teacher_id}.memory"

    def _forget(self, teacher: Record) -> None:
        """What a teacher said before it was trained anew; whoever still reads that may go on."""
        for about in self.memories(teacher.id).glob("*/about.json"):
            if teacher.result.weights.encode() not in about.read_bytes():
                shutil.rmtree(about.parent, ignore_errors=True)

    def work(self, cell_id: str) -> Path:
        return self.folder / "work" / cell_id

    def clear(self, cell_id: str) -> None:
        """A finished cell needs no checkpoints any more, nor the drafts of those who were killed taking it; who calls
        this holds its lease."""
        for file in self.work(cell_id).glob("*"):
            if not file.name.startswith("lease."):
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Pack, and clear up behind those that were killed with all that they leave just written."""
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
        """Perhaps, for the weights of one that may teach, or with its teacher's new ones: its checkpoint stays."""
        teaches = record.method == "ce" and not record.tasks
        return outdated(record, records) or (teaches and not self.weights(record).exists())

    # -- what is believed ---------------------------------------------------------------------------------------------

    def _read(self, file: Path, kind: type[T]) -> T | None:
        """A record, if it parses and is what its name says; else it is set aside and reported."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # not there, or just packed or set aside by another process
            return None
        try:
            found = believed(content, kind)
            if found.id != file.stem:
                raise ValueError(f"it holds the cell {found.id}")
        except Newer as newer:
            if kind is not Failure:
                self.newer[file.stem] = file
            self._report(f"{file} is left where it is: {newer}")
            return None
        except ValueError as error:
            self._set_aside(file, content, str(error))
            return None
        return found

    def _unpack(self, pack: Path, kind: type[R], only: Set[str] | None = None) -> Iterator[tuple[R, bytes]]:
        return ((record, line) for _, record, line in self._lines(pack, kind, only) if record)

    def _lines(self, pack: Path, kind: type[R], only: Set[str] | None = None) -> Iterator[tuple[str, R | None, bytes]]:
        """Each line with its id and its record, or with none where that is a newer version's; a line that is not
        believed is copied aside, and packing leaves it out."""
        if only is not None and self._ids(pack).isdisjoint(only):
            return
        with pack.open("rb", buffering=READ_AT_ONCE) as lines:  # one line at a time: packs are large
            for number, line in enumerate(map(bytes.rstrip, lines), start=1):
                try:
                    if only is None or decoded(line, Named).id in only:
                        record = believed(line, kind)
                        yield record.id, record, line
                except Newer as newer:
                    self.newer[newer.id] = pack
                    self._report(f"{pack}, line {number}, is left where it is: {newer}")
                    yield newer.id, None, line
                except ValueError as error:
                    if not self.only_reads:
                        write(self._aside(pack, line), line + b"\n")
                    self._report(f"{pack}, line {number}, is not believed: {error}")

    def _sweep(self, folder: Path) -> None:
        """A writer that was killed leaves a part behind."""
        for part in folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > ABANDONED:
                    self._set_aside(part, part.read_bytes(), "its writer did not come to an end")

    def _set_aside(self, file: Path, content: bytes, why: str) -> None:
        if self.only_reads:
            self._report(f"{file} is not believed: {why}")
            return
        place = self._aside(file, content)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            file.replace(place)
        self._report(f"{file} is set aside as {place}: {why}")

    def _aside(self, file: Path, content: bytes) -> Path:
        """Named by its content: nothing that was set aside before is written over."""
        self.damaged_folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(content, digest_size=4).hexdigest()
        return self.damaged_folder / f"{file.stem.lstrip('.')}.{digest}{file.suffix}"

    def _report(self, trouble: str) -> None:
        if trouble not in self.troubles:
            self.troubles.append(trouble)
