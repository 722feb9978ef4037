"""Files that are there whole or not at all, whatever happens while they are written."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written(file: Path, before: Path | None = None) -> Iterator[BinaryIO]:
    """Written beside its place, and renamed into it once the block has ended well and all is on the disk; ``before`` is
    where the one that was there goes."""
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")  # on other machines pids are the same
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if before is not None and file.exists():
            file.replace(before)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)  # where the disk was full, others need the space


def write(file: Path, content: bytes) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written(file) as stream:
        stream.write(content)
