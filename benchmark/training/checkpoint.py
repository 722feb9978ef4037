"""Checkpoints that survive a kill at any moment and are loaded only if they are complete.

A file holds a line with the format, the digest of the body, and the body as ``torch.save`` writes it. A new checkpoint
is written to a temporary file and renamed over the last one; the previous one is kept. Loading never runs code.
"""

import hashlib
import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kdbench.benchmark.training.engine import out_of_memory
from kdbench.benchmark.whole import written

FORMAT = b"kdbench checkpoint 1\n"
State = dict[str, Any]


class Checkpoints:
    """The last two checkpoints of a run, in a folder; a new one is due after ``every`` seconds.

    ``here`` is the current environment and code of the run, ``elsewhere`` lists the earlier ones. ``teacher`` and
    ``data`` are digests of what the run learns from: a checkpoint of a run that learned from others is of no use.
    """

    def __init__(self, folder: Path, every: float = 30.0) -> None:
        self.last = folder / "checkpoint.pt"
        self.before = folder / "checkpoint.before.pt"
        self.eager = folder / "eager"  # exists once torch has failed to compile the run
        self.every = every
        self.here = ""
        self.teacher = ""
        self.data = ""
        self.elsewhere: list[str] = []
        self._saved = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved >= self.every

    def save(self, state: State) -> None:
        buffer = io.BytesIO()
        origin = {"environments": [*self.elsewhere, self.here], "teacher": self.teacher, "data": self.data}
        torch.save(state | origin, buffer)
        body = buffer.getbuffer()
        self.last.parent.mkdir(parents=True, exist_ok=True)
        with written(self.last, before=self.before) as file:
            file.write(FORMAT + hashlib.blake2b(body, digest_size=32).digest())
            file.write(body)
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """The newest complete checkpoint; a damaged one is set aside and reported."""
        for stale in self.last.parent.glob(f".{self.last.name}.*.part"):
            stale.unlink(missing_ok=True)
        for file in (self.last, self.before):
            if file.exists():
                try:
                    state = read(file)
                    same_teacher = state.pop("teacher", self.teacher) == self.teacher
                    same_data = state.pop("data", self.data) == self.data
                    if not (same_teacher and same_data):
                        other = "other data" if same_teacher else "another teacher"
                        warnings.warn(f"{file} is from a run with {other}: training restarts", stacklevel=2)
                        self.clear()
                        return None
                    self.elsewhere = [place for place in state.pop("environments", []) if place != self.here]
                    return state
                except ValueError as error:
                    aside = file.with_suffix(".damaged")
                    file.replace(aside)
                    warnings.warn(f"{file} {error}: it is set aside as {aside.name}", stacklevel=2)
        return None

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Drop a checkpoint of other code that does not fit; otherwise the next try would fail on it too."""
        try:
            yield
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            if out_of_memory(error) or isinstance(error, torch.AcceleratorError):  # the checkpoint is fine
                raise
            self.clear()
            raise RuntimeError(f"its checkpoint of other code does not fit and is dropped ({error})") from error

    def clear(self) -> None:
        self.elsewhere = []
        self.last.unlink(missing_ok=True)
        self.before.unlink(missing_ok=True)


def read(file: Path) -> State:
    content = file.read_bytes()
    head, body = content[: len(FORMAT) + 32], content[len(FORMAT) + 32 :]
    if not head.startswith(FORMAT):
        raise ValueError("is not a checkpoint")
    if hashlib.blake2b(body, digest_size=32).digest() != head[len(FORMAT) :]:
        raise ValueError("is damaged")
    try:
        state: State = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception:  # torch and pickle raise many kinds of errors
        raise ValueError("contains something other than tensors and plain values") from None
    return state
