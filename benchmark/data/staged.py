"""Data on a node's local disk, copied there once for all current and later runs on the node."""

import fcntl
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from kdbench.benchmark.data.dataset import HELD_OUT, source

ARCHIVE = ".tar"  # of a folder, as from `tar -cf imagenet.tar imagenet`: one file is read faster than a million


def staged(name: str, folder: Path, scratch: Path) -> tuple[Path, str]:
    """The best folder to read a data set from, and a sentence that says why.

    A copy is written under a temporary name and then renamed, so an existing copy is complete. While one process
    copies, the others wait. The copy's name depends on the paths, sizes and times of the files in ``folder``, so
    changed data are copied again. In a directory, added, removed and replaced files are noticed. A file whose content
    changes in place is not.
    """
    files = source(name).found(folder)
    if not files:
        return folder, f"{name} is read from {folder}: it has no files to copy"
    likeness = [(str(file), (seen := file.stat()).st_size, seen.st_mtime_ns) for file in _telling(files)]
    digest = hashlib.blake2b(repr(likeness).encode(), digest_size=6).hexdigest()
    try:
        home = scratch / f"kdbench-{os.getuid()}"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = home / f"{name.removesuffix(HELD_OUT)}-{digest}"
        with (home / f"{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released if the process is killed
            if place.exists():
                return place, f"{name} is read from {place}, copied earlier"
            part = home / f"{place.name}.part"
            shutil.rmtree(part, ignore_errors=True)  # left by a killed process
            needed, free = sum(_sizes(files)), shutil.disk_usage(home).free
            if needed > 0.95 * free:
                return folder, f"{name} is read from {folder}: it needs {needed:,} bytes, and {home} has {free:,} free"
            try:
                for file in files:
                    _copy(file, part / file.relative_to(folder))
                part.rename(place)
            finally:
                shutil.rmtree(part, ignore_errors=True)  # frees the space of a failed copy
    except (OSError, tarfile.TarError) as error:
        return folder, f"{name} is read from {folder}: it could not be copied to {scratch} ({error})"
    return place, f"{name} is read from {place}, copied from {folder}"


def _telling(files: list[Path]) -> Iterator[Path]:
    """The paths whose times are checked: a directory and those below it, but not its files (there may be a million)."""
    for file in files:
        yield from sorted(Path(inner) for inner, _, _ in os.walk(file, followlinks=True)) or [file]


def _sizes(files: list[Path]) -> Iterator[int]:
    for file in files:
        if file.is_dir():
            yield from (inner.stat().st_size for inner in file.rglob("*") if inner.is_file())
        else:
            yield file.stat().st_size


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ARCHIVE:
        with tarfile.open(file) as archive:
            archive.extractall(target.parent, filter="data")
    elif file.is_dir():
        shutil.copytree(file, target)
    else:
        shutil.copyfile(file, target)
