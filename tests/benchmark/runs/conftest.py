"""The command, as a user starts it: in a process of its own, which may be killed."""

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

from kdbench.benchmark.records.lease import Holder
from kdbench.benchmark.records.store import Store


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
