"""Records of cells that never ran, and processes that take leases."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.records.lease import Lease
from kdbench.benchmark.records.record import Record
from tests.benchmark.records.leases import Start

MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]


@pytest.fixture
def records(make_cell: MakeCell, make_record: MakeRecord) -> list[Record]:
    """Of two students, four seeds each: two packs."""
    cells = [make_cell(student=s, seed=i) for s in ("resnet8x0.25", "resnet8x0.5") for i in range(4)]
    return [make_record(cell, top1=i / 7) for i, cell in enumerate(cells)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "work" / "cell"


@pytest.fixture
def start() -> Iterator[Start]:
    """A process that runs a line of Python after having imported what it needs."""
    started: list[subprocess.Popen[str]] = []

    def start(line: str, *arguments: object) -> subprocess.Popen[str]:
        program = f"import sys, os, time\nfrom pathlib import Path\nfrom {Lease.__module__} import Lease\n{line}"
        words = [sys.executable, "-c", program, *map(str, arguments)]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
