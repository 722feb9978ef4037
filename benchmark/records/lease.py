"""A lease on a cell: at most one process runs the cell at any time, and a dead process holds no lease.

The primitive is ``link``. It is atomic, on NFS too, and fails if the name exists. A lease is a file ``lease.N`` in the
cell's working folder. To take a lease: link a file numbered one above all present, then look again. It is yours if the
file is still yours and no other holder is alive; then remove the files of dead holders. The second look is needed
because numbers repeat once all leases are released. If two race with different numbers, the one that looks later sees
the other and gives way. Two processes never both go on; both may give way, and then ask again. (A client's own link
makes NFS read the folder again, so the second look is not a cached one.)

A holder is dead if its process is gone, which its own machine can see, or if its heartbeat has not changed for
``PATIENCE`` seconds. The heartbeat is the file's time by the file server's clock. A holder that was wrongly believed
dead and comes back sees that its file is gone. The owner of a file is in its content, not in its name.
"""

import contextlib
import os
import socket
import tempfile
import threading
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Self

import msgspec
import psutil

PATIENCE = 120.0
BEAT = 10.0
BOOT = Path("/proc/sys/kernel/random/boot_id")  # random; new at each boot


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lease. Its start time distinguishes it from a later process with the same pid."""

    host: str
    pid: int
    began: float
    token: str  # unique to each lease

    @classmethod
    def me(cls) -> "Holder":
        return cls(here(), os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex)


class Lease:
    """A lease, held from ``take`` to ``release``. If it may be needed for longer than ``PATIENCE``, use it in a
    ``with`` block, which keeps its heartbeat going and releases it at the end."""

    def __init__(self, file: Path, holder: Holder) -> None:
        self.file = file
        self.content = msgspec.json.encode(holder)
        self.lost = False  # as of the last heartbeat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.release()

    def _keep_alive(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # a file server that is away for a while must not end the heartbeat
                if self.holds():
                    self.beat()
                else:
                    self.lost = True

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """Take the lease on a working folder. Returns None if a live process holds it."""
        holder = Holder.me()
        draft = folder / f"draft.{holder.token}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            leases = _leases(folder)
            if any(alive(lease) for lease in leases):
                return None
            mine = cls(folder / f"lease.{_number(leases[-1]) + 1 if leases else 1}", holder)
            draft.write_bytes(mine.content)
            with contextlib.suppress(FileExistsError):  # another was faster; or it is ours, and NFS lost the reply
                os.link(draft, mine.file)
        except (FileNotFoundError, FileExistsError):  # the folder was just removed
            return None
        finally:
            draft.unlink(missing_ok=True)

        others = [lease for lease in _leases(folder) if lease != mine.file]
        if not mine.holds() or any(alive(lease) for lease in others):
            mine.release()
            return None
        for dead in others:
            dead.unlink(missing_ok=True)
        return mine

    def holds(self) -> bool:
        """Whether the lease is still ours. If we were believed dead, our file is gone or has another owner."""
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_bytes() == self.content
        return False

    def beat(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.file)

    def release(self) -> None:
        if self.holds():
            self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder may not be empty
            self.file.parent.rmdir()


def held(folder: Path) -> bool:
    """Whether a live process holds the lease in this folder."""
    return any(alive(lease) for lease in _leases(folder))


def alive(lease: Path) -> bool:
    try:
        seen = _seen(lease.read_bytes())
        return _now(lease.parent) - lease.stat().st_mtime < PATIENCE if seen is None else seen
    except FileNotFoundError:  # released
        return False


def _seen(content: bytes) -> bool | None:
    """Whether the holder's process exists. None if that is unknown: the process is on another machine, or this machine
    hides it, or the pid's start time differs. Then the pid is another process's, or the clock was set."""
    try:
        holder = msgspec.json.decode(content, type=Holder)
        if holder.host != here():
            return None
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # in a container it may never be reaped
            return False
        return True if abs(process.create_time() - holder.began) < 1 else None
    except psutil.NoSuchProcess:
        return _unless_hidden(holder.pid)
    except (psutil.AccessDenied, msgspec.MsgspecError, ValueError):
        return None


def _unless_hidden(pid: int) -> bool | None:
    """The same for a process that /proc does not show. Mounted with hidepid, /proc hides other users' processes."""
    try:
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return None


@cache
def here() -> str:
    """A name for the group of processes on this machine that see each other. The host name is not enough: containers
    and other machines may share it. Nor is the number of the pid namespace: every machine's first one has the same."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not on Linux
        facts.append(BOOT.read_text().strip())
    with contextlib.suppress(OSError):
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(facts)


def _now(folder: Path) -> float:
    """The time by the file server's clock, since clocks of machines differ; by our own clock if the folder is
    read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except FileNotFoundError:
        raise
    except OSError:
        return time.time()


def _leases(folder: Path) -> list[Path]:
    """The leases in a folder, lowest number first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted((file for file in folder.glob("lease.*") if file.suffix[1:].isdigit()), key=_number)
    return []


def _number(lease: Path) -> int:
    return int(lease.suffix[1:])
