"""The processes of a private cluster. They are found by the files that they hold, never only by name."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from kdbench.slurm.devcluster import refusal

DAEMONS = {"setsid", "munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd"}


def holding(logs: Path, name: str = "") -> list[psutil.Process]:
    """Daemons that have a log in the folder open (the log of this name, if given), and the processes they started.

    This finds a daemon that was killed before it wrote its pid file, and the step of a job, which survives its slurmd.
    Daemons come first: a daemon that sees its job die before itself would report that the job has failed.
    """
    daemons, started = [], []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in DAEMONS:
            with suppress(psutil.Error):
                opened = (Path(file.path) for file in process.open_files())
                if any(file.parent == logs and name in ("", file.stem) for file in opened):
                    daemons.append(process)
                    started += process.children(recursive=True)
    return [process for process in dict.fromkeys([*daemons, *started]) if _lives(process)]


def of_jobs(conf: Path, node: str = "") -> Iterator[psutil.Process]:
    """Processes that jobs started (on a node), even if they left their parent. SLURM's variables identify them."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            home = environment.get("SLURMD_NODENAME", "")
            if environment.get("SLURM_CONF") == str(conf) and home and node in ("", home):
                yield process


def kill(find: Callable[[], list[psutil.Process]], seconds: float = 30) -> None:
    """Kill processes until none is found: a killed process may just have started another one."""
    deadline = time.monotonic() + seconds
    while found := find():
        if time.monotonic() > deadline:
            raise refusal(f"{found[0].name()} (process {found[0].pid}) must end when killed, but still runs")
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    """Whether a process is alive. A zombie is not: it may never be reaped."""
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
