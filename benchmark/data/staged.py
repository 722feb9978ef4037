"""Data on a disk of the node's own: copied there once, for all that run on the node, now and later."""

import fcntl
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from kdbench.benchmark.data.dataset import HELD_OUT, source

ARCHIVE = ".tar"  # of a folder, as `tar -cf imagenet.tar imagenet` makes it: one file is read faster than a million


def staged(name: str, folder: Path, scratch: Path) -> tuple[Path, str]:
    """The folder from which a data set is read best, and a sentence about it.

    A copy is begun beside its place and renamed into it, so that what is there is whole; while one process copies,
    others wait. It is known by what its files are like in ``folder``: changed data are copied anew. Of a directory's
    files only those that come, go or are replaced are noticed: one whose content changes in place is not.
    """
    files = source(name).found(folder)
    if not files:
        return folder, f"{name} is read from {folder}: nothing of it can be copied"
    likeness = [(str(file), (seen := file.stat()).st_size, seen.st_mtime_ns) for file in _telling(files)]
    digest = hashlib.blake2b(repr(likeness).encode(), digest_size=6).hexdigest()
    try:
        home = scratch / f"kdbench-{os.getuid()}"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = home / f"{name.removesuffix(HELD_OUT)}-{digest}"
        with (home / f"{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of by whoever is killed
            if place.exists():
                return place, f"{name} is read from {place}, where it was"
            part = home / f"{place.name}.part"
            shutil.rmtree(part, ignore_errors=True)  # of one that was killed
            needed, free = sum(_sizes(files)), shutil.disk_usage(home).free
            if needed > 0.95 * free:
                return folder, f"{name} is read from {folder}: it takes {needed:,} bytes, and {home} has {free:,} left"
            try:
                for file in files:
                    _copy(file, part / file.relative_to(folder))
                part.rename(place)
            finally:
                shutil.rmtree(part, ignore_errors=True)  # of a copy that failed: others need the room
    except (OSError, tarfile.TarError) as error:
        return folder, f"{name} is read from {folder}: it could not be copied to {scratch} ({error})"
    return place, f"{name} is read from {place}, copied from {folder}"


def _telling(files: list[Path]) -> Iterator[Path]:
    """What is asked for its time: of a directory those below it, not its files, of which there may be a million."""
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
