"""Grids in files, and one of two cells with an empty store; ``make_cell``, ``make_record`` and ``kdbench`` are a floor
higher, where others use them too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.lease import Holder, Lease
from kdbench.benchmark.experiments.record import Record
from kdbench.benchmark.experiments.store import Store
from tests.benchmark.experiments.leases import Start

WriteGrid = Callable[..., Path]
MakeCell, MakeRecord = Callable[..., Cell], Callable[..., Record]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def records(make_cell: MakeCell, make_record: MakeRecord) -> list[Record]:
    """Of two students, four seeds each: two packs."""
    cells = [make_cell(student=s, seed=i) for s in ("resnet8x0.25", "resnet8x0.5") for i in range(4)]
    return [make_record(cell, top1=i / 7) for i, cell in enumerate(cells)]


@pytest.fixture
def ce(make_cell: MakeCell) -> Cell:
    return make_cell()


@pytest.fixture
def kd(make_cell: MakeCell) -> Cell:
    return make_cell("kd", teacher="resnet14x0.5")


@pytest.fixture
def grid(ce: Cell, kd: Cell) -> Grid:
    return Grid("tiny", "", (ce, kd))


@pytest.fixture
def write_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteGrid:
    """A grid in the working folder: one that is right but for what is changed or added; ``None`` leaves a key out."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | None = None, name: str = "grid.yaml", **changes: str | None) -> Path:
        right: dict[str, str | None] = {
            "datasets": "digits",
            "pairs": "resnet14x0.5 -> resnet8x0.25",
            "methods": "[ce, kd]",
            "recipe": "quick",
        }
        lines = [f"{key}: {value}\n" for key, value in (right | changes).items() if value is not None]
        file = Path(name)
        file.write_text("".join(lines) if text is None else text)
        return file

    return write


# -- the command, as a user starts it ---------------------------------------------------------------------------------


class Command:
    """The files are written into a folder; the command runs there, in a process group of its own, with one thread."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        self.store = Store(folder / "results")
        self.started: list[subprocess.Popen[str]] = []
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)

    def start(self, *words: object, verb: str = "run", **environment: object) -> subprocess.Popen[str]:
        settings = {"OMP_NUM_THREADS": "1", "COLUMNS": "300"} | {key: str(value) for key, value in environment.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "kdbench.benchmark.cli", verb, *map(str, words)],
            cwd=self.folder, env=os.environ | settings, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *words: object, **environment: object) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        process = self.start(*words, **environment)
        out, err = process.communicate()
        return process.returncode, out, err

    def kill(self, process: subprocess.Popen[str]) -> None:
        """It and all that it has started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self.wait(lambda: not self.alive(process))

    def alive(self, process: subprocess.Popen[str]) -> list[int]:
        """The processes of its group that have not ended."""
        found = []
        for other in psutil.process_iter():
            try:
                if os.getpgid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                    found.append(other.pid)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def holder(self) -> int | None:
        """A process that holds a cell's lease."""
        for lease in self.store.folder.glob("work/*/lease.*"):
            return msgspec.json.decode(lease.read_bytes(), type=Holder).pid
        return None

    @staticmethod
    def wait(look: Callable[[], Any]) -> Any:
        """What ``look`` finds, as soon as it finds something."""
        deadline = time.monotonic() + 120
        while not (found := look()):
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.02)
        return found


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """``command(grid_yaml="...", mine_py="...")``."""
    made: list[Command] = []

    def make(**files: str) -> Command:
        made.append(Command(tmp_path, **files))
        return made[-1]

    yield make
    for process in (process for one in made for process in one.started):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


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
