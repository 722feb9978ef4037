"""The verb ``leaderboard``: writes the files that the records in a folder give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench.benchmark.leaderboard.album import KINDS, Picture, album
from kdbench.benchmark.leaderboard.formats import as_json, latex, markdown
from kdbench.benchmark.leaderboard.frame import failures, frame
from kdbench.benchmark.leaderboard.page import MOST_RECORDS, page
from kdbench.benchmark.leaderboard.report import csv
from kdbench.benchmark.leaderboard.table import Board, board
from kdbench.benchmark.records.record import Failure, Record
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.throughput import record as throughput
from kdbench.benchmark.throughput.table import tables
from kdbench.benchmark.whole import write
from kdbench.refusal import Refusal


@dataclass(frozen=True)
class Published:
    board: Board
    files: dict[Path, bytes]
    pictures: Path  # the folder of the pictures in the page
    troubles: list[str]

    def outdated(self) -> list[Path]:
        """The files that are missing or differ from what the records give, and our pictures that they no longer give.

        The start of its name tells whether a picture is ours. Other pictures in the folder are left alone.
        """
        changed = [file for file, content in self.files.items() if not file.is_file() or file.read_bytes() != content]
        ours = tuple(f"{kind}-" for kind in KINDS)
        drawn = (file for form in ("svg", "png") for file in sorted(self.pictures.glob(f"*.{form}")))
        return changed + [file for file in drawn if file.name.startswith(ours) and file not in self.files]

    def write(self) -> None:
        for file in self.outdated():
            if file in self.files:
                write(file, self.files[file])
            else:
                file.unlink()


def publish(results: Path, grid: str | None, only_reads: bool = False) -> Published:
    """What the records give. A grid limits them to its cells, and its name becomes part of the file names."""
    store = Store(results, only_reads=only_reads)
    records, stem = store.briefs(), "leaderboard"
    if grid is not None:
        from kdbench.benchmark.plans.grid import load  # slow: imports all networks and data sets

        declared = load(grid)
        wanted = {cell.id for cell in declared.cells}
        records, stem = (record for record in records if record.id in wanted), f"leaderboard-{declared.name}"
    cells = frame(records)
    if cells.empty:
        raise Refusal(f"{results} must hold records{f' of {grid}' if grid else ''}: run a grid first")
    speeds = throughput.records(results, store.troubles)
    failed = failures(one for one in _lasting(store) if grid is None or one.id in wanted)
    found = replace(board(cells, speeds), failed=failed)
    shown = set(found.cells["id"])
    whole = store.records(shown) if len(shown) <= MOST_RECORDS else {}
    pictures = album(found, whole, store)
    content = files(found, stem)  # meanwhile, the pictures are drawn
    folder = stem.replace("leaderboard", "pictures", 1)
    content |= seen(found, list(pictures), whole, stem, folder)
    named = {results / name: content for name, content in content.items()}
    if grid is None:  # these pages are not limited to a grid
        named |= tables(speeds, results)
    return Published(found, named, results / folder, store.troubles)


def _lasting(store: Store) -> list[Failure]:
    """The failures of cells that have no record: one may have been copied from another folder since."""
    failures = store.failures()
    finished = store.outlines() if failures else {}
    return [failure for key, failure in failures.items() if key not in finished]


def files(board: Board, stem: str) -> dict[str, bytes]:
    """The tables, by file name."""
    return {
        f"{stem}.md": markdown(board).encode(),
        f"{stem}.csv": csv(board.series).encode(),
        f"{stem}.tex": latex(board).encode(),
        f"{stem}.json": as_json(board).encode(),
    }


def seen(
    board: Board, pictures: Sequence[Picture], records: Mapping[str, Record], stem: str, folder: str
) -> dict[str, bytes]:
    """The page and its pictures, by file name."""
    title = stem.replace("-", ": ", 1).capitalize()
    found = {f"{stem}.html": page(board, pictures, records, title).encode()}
    for picture in pictures:
        found[f"{folder}/{picture.name}.svg"] = picture.svg.encode()
        found[f"{folder}/{picture.name}.png"] = picture.png
    return found
