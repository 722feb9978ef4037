"""A lease on a cell: at any time at most one process runs it, and a dead process holds nothing.

The primitive is ``link``: it is atomic, on NFS too, and fails where the name exists. A lease is a file ``lease.N`` in
the cell's working folder, N one above all that are there. Names come again once all are released, so whoever has linked
looks a second time: it has the lease when its file is still there and no other holder is alive, and then removes what
the dead have left. Of two that link under different numbers, the later look sees the other's link: never do both go on,
and whoever gave way asks again. (A client's own link makes NFS read the folder anew: the second look is not a
remembered one.)

A holder is dead when its process is gone, as its own machine can see, or when its heartbeat, the file's time by the
file server's own clock, has stood still for ``PATIENCE`` seconds. One that was only believed dead, and comes back, sees
that its file is gone; what a file says, not its name, tells whose it is.
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
BOOT = Path("/proc/sys/kernel/random/boot_id")  # drawn by each machine when it starts


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease: a process, told from a later one with the same number by when it began."""

    host: str
    pid: int
    began: float
    token: str  # no two leases are the same

    @classmethod
    def me(cls) -> "Holder":
        return cls(here(), os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex)


class Lease:
    """Held from ``take`` to ``release``. Whoever may need it for longer than ``PATIENCE`` works ``with`` it: it beats
    meanwhile, and is released in the end."""

    def __init__(self, file: Path, holder: Holder) -> None:
        self.file = file
        self.content = msgspec.json.encode(holder)
        self.lost = False  # as the last beat saw it
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
            with contextlib.suppress(OSError):  # a file server that is away for a while must not end the beat
                if self.holds():
                    self.beat()
                else:
                    self.lost = True

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """The lease on what is worked on in this folder, or None where somebody alive holds it."""
        holder = Holder.me()
        draft = folder / f"draft.{holder.token}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            leases = _leases(folder)
            if any(alive(lease) for lease in leases):
                return None
            mine = cls(folder / f"lease.{_number(leases[-1]) + 1 if leases else 1}", holder)
            draft.write_bytes(mine.content)
            with contextlib.suppress(FileExistsError):  # another was faster, or it is ours and NFS lost the answer
                os.link(draft, mine.file)
        except (FileNotFoundError, FileExistsError):  # the folder was just cleared away
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
        """Where a holder was believed dead, its file is gone, or its name is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_bytes() == self.content
        return False

    def beat(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.file)

    def release(self) -> None:
        if self.holds():
            self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others may have put something there
            self.file.parent.rmdir()


def held(folder: Path) -> bool:
    """Does somebody alive hold the lease in this folder?"""
    return any(alive(lease) for lease in _leases(folder))


def alive(lease: Path) -> bool:
    try:
        seen = _seen(lease.read_bytes())
        return _now(lease.parent) - lease.stat().st_mtime < PATIENCE if seen is None else seen
    except FileNotFoundError:  # released
        return False


def _seen(content: bytes) -> bool | None:
    """Is the holder's process there? None where that cannot be seen: on another machine, or on one that hides what
    others run, or because another process has its number, or the clock was set and it only seems another."""
    try:
        holder = msgspec.json.decode(content, type=Holder)
        if holder.host != here():
            return None
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # in a container nobody may come to reap it
            return False
        return True if abs(process.create_time() - holder.began) < 1 else None
    except psutil.NoSuchProcess:
        return _unless_hidden(holder.pid)
    except (psutil.AccessDenied, msgspec.MsgspecError, ValueError):
        return None


def _unless_hidden(pid: int) -> bool | None:
    """The same of a process that /proc does not show: mounted with hidepid, it hides those of other users."""
    try:
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return None


@cache
def here() -> str:
    """This machine, as far as its processes see each other: containers on it may share its name, and so may other
    machines, on all of which the first namespace has one number."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not on Linux
        facts.append(BOOT.read_text().strip())
    with contextlib.suppress(OSError):
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(facts)


def _now(folder: Path) -> float:
    """The time by the clock of whoever keeps the files, as clocks of machines differ; by our own where we may only
    read."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except FileNotFoundError:
        raise
    except OSError:
        return time.time()


def _leases(folder: Path) -> list[Path]:
    """The lowest number first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted((file for file in folder.glob("lease.*") if file.suffix[1:].isdigit()), key=_number)
    return []


def _number(lease: Path) -> int:
    return int(lease.suffix[1:])
