"""What the tests of leases share."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kdbench.benchmark.records.lease import Holder, Lease

Start = Callable[..., subprocess.Popen[str]]


def taken(folder: Path) -> Lease:
    lease = Lease.take(folder)
    assert lease
    return lease


def leave(folder: Path, age: float = 0.0, number: int = 1, **differs: Any) -> Path:
    """A lease in which this process's own is written, but for what differs."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"lease.{number}"
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(Holder.me(), **differs)))
    os.utime(file, (time.time() - age,) * 2)
    return file


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []
