"""The teacher's memory: what it has said of a view of a training image, it need not be asked again.

A frozen teacher says the same of the same view to every method, student and seed. Its answers are kept beside its
weights, a row of fp16 a view, in sparse files that fill as training goes on and that processes share without a lock.
Zero means "not asked yet", and no answer is ever stored as zero: a row that holds one, because nobody has asked yet or
because who asked was killed while writing, is asked for again. Whoever writes a row writes the same bits (on a GPU, the
same up to what the order of a batch does to its sums).
"""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.benchmark.training.teacher import frozen
from kdbench.methods.chain import UNASKED, Chain, Trace
from kdbench.methods.method import Batch, Needs
from kdbench.refusal import Refusal

AT_ONCE = 64  # images that the teacher is asked about; on a GPU always as many, for the last bits may depend on it
PORTION = 16  # on a CPU any multiple of this gives the same bits
TINY = 2.0**-24  # the smallest number above zero that fp16 has
GIGABYTE = 10**9


class RememberingTeacher:
    """Looks an answer up, or asks the teacher and remembers. An answer that has just been given is rounded like one
    that is read: a run has the same bits whatever was remembered before it. One that fp16 cannot hold is neither
    rounded nor remembered, and asked for every time."""

    def __init__(self, teacher: Chain, needs: Needs, views: int, folder: Path) -> None:
        self.teacher = frozen(teacher)
        self.answers = {"logits": Rows(folder / "logits.fp16", views, teacher.classes)}
        if needs.teacher_embedding:
            self.answers["embedding"] = Rows(folder / "embedding.fp16", views, teacher.embedding_width)
        self.looked_up = self.seen = 0  # images, in the main phase

    def __call__(self, batch: Batch) -> Trace:
        assert batch.view is not None and len(batch.view) == len(batch.labels)
        places = batch.view.numpy()
        found = {name: rows.read(places) for name, rows in self.answers.items()}
        missing = torch.stack([(answer == 0).any(1) for answer in found.values()]).any(0).nonzero()[:, 0]
        if len(missing):
            asked = self.ask(batch.images[missing.to(batch.images.device)])
            for name, answer in asked.items():
                found[name][missing] = self.answers[name].write(places[missing.numpy()], answer.cpu())
        if batch.phase == "main":
            self.seen += len(places)
            self.looked_up += len(places) - len(missing)
        heard = {name: moved(answer, batch.labels.device) for name, answer in found.items()}
        trace = Trace(heard["logits"], heard.get("embedding", UNASKED))
        return replace(trace, views=(trace,))

    @torch.no_grad()
    def ask(self, images: Tensor) -> dict[str, Tensor]:
        """What the teacher says of some images, a few of them repeated where they do not fill a batch."""
        count, portion = len(images), PORTION if images.device.type == "cpu" else AT_ONCE
        filled = images[torch.arange(-(-count // portion) * portion, device=images.device) % count]
        traces = [self.teacher.trace(part) for part in filled.split(AT_ONCE)]
        return {name: torch.cat([getattr(trace, name) for trace in traces])[:count] for name in self.answers}

    @property
    def share(self) -> float:
        """How many of the main phase's images were looked up, of all that were seen in this sitting."""
        return self.looked_up / max(self.seen, 1)


class Rows:
    """A file of rows that are mapped to be read and written as a file is: on a full disk that is an error, which can be
    met; to write through the map would be the end of the process."""

    def __init__(self, file: Path, count: int, width: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.width = width
        self.file = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        self.file.truncate(2 * count * width)  # sparse: what was never written takes no room
        self.rows = np.memmap(self.file, np.float16, "r", shape=(count, width))
        self.full = False

    def read(self, places: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(self.rows[places]).float()

    def write(self, places: np.ndarray[Any, Any], answers: Tensor) -> Tensor:
        """The answers as they will be read."""
        rounded = answers.half()
        rounded[rounded == 0] = TINY
        fits = rounded.isfinite().all(1)
        if not self.full:
            try:
                for place, row, fit in zip(places.tolist(), rounded.numpy(), fits.tolist(), strict=True):
                    if fit:
                        os.pwrite(self.file.fileno(), row.tobytes(), 2 * place * self.width)
            except OSError as error:
                self.full = True
                warnings.warn(f"{self.file.name} remembers no more: {error.strerror}", stacklevel=2)
        return torch.where(fits[:, None], rounded.float(), answers)


def moved(answer: Tensor, device: torch.device) -> Tensor:
    """Without a wait: from pinned memory, where the device can read while this process goes on."""
    return answer.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else answer


# -- when there is one ------------------------------------------------------------------------------------------------


def rememberable(needs: Needs, teacher: Chain) -> bool:
    """Does a method listen to nothing but what a teacher says of the recipe's views, in vectors?"""
    more = needs.teacher or needs.live_teacher or needs.input_grad or needs.teacher_train
    vectors = not needs.teacher_embedding or teacher.form(len(teacher) - 1).kind == "vector"
    return not more and needs.views == ("recipe",) and vectors


def affordable(needs: Needs, teacher: Chain, views: int) -> bool:
    """Is a method's teacher rememberable, and all that it may say no more than is kept?"""
    return rememberable(needs, teacher) and size(needs, teacher, views) <= limit()


def size(needs: Needs, teacher: Chain, views: int) -> int:
    """Bytes of a memory in which nothing is missing."""
    width = teacher.classes + (teacher.embedding_width if needs.teacher_embedding else 0)
    return 2 * views * width


def limit() -> float:
    """The largest memory, in bytes, that is kept of a teacher for a method."""
    asked = os.environ.get("KDBENCH_MEMORY_GB", "4.5")
    try:
        gigabytes = float(asked)
    except ValueError:
        gigabytes = -1
    if not gigabytes >= 0:
        raise Refusal(f"KDBENCH_MEMORY_GB must be a number of gigabytes, 0 or more, got '{asked}'")
    return gigabytes * GIGABYTE
