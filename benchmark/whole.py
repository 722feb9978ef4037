"""Atomic writes: a file is complete or missing, whatever happens during the write."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written(file: Path, before: Path | None = None) -> Iterator[BinaryIO]:
    """Write to a temporary file beside ``file``, and rename it once the block succeeds and all is on the disk.

    An existing ``file`` is first renamed to ``before``, if that is given.
    """
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")  # pids repeat on other machines
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if before is not None and file.exists():
            file.replace(before)
        part.replace(file)
    except OSError as error:
        if str(error.filename) == str(part):  # the user knows the other name
            error.filename = str(file)
        raise
    finally:
        part.unlink(missing_ok=True)  # if the disk was full, others need the space


def write(file: Path, content: bytes) -> None:
    """Write all of the content or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written(file) as stream:
        stream.write(content)
