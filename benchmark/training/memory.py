"""The teacher's memory: a cache of its answers to the views of the training images.

A frozen teacher gives the same answer to the same view for every method, student and seed. Its answers are stored
beside its weights, one row of fp16 per view. The files are sparse and fill up during training; processes share them
without a lock. Zero means "not asked yet", and no answer is ever stored as zero. A row that contains a zero was never
written, or its writer was killed: the teacher is asked again. Every process writes the same bits to a row (on a GPU,
the same up to the effect of a batch's order on its sums).
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

AT_ONCE = 64  # images per teacher batch; on a GPU always this many, because the last bits may depend on it
PORTION = 16  # on a CPU any multiple of this gives the same bits
TINY = 2.0**-24  # the smallest positive number in fp16
GIGABYTE = 10**9


class RememberingTeacher:
    """Reads an answer from the memory, or asks the teacher and stores the answer.

    A new answer is rounded like a stored one, so a run has the same bits whatever the memory held before. An answer
    that fp16 cannot hold is neither rounded nor stored, and the teacher is asked every time.
    """

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
        """The teacher's answers to some images; a few images are repeated if they do not fill a batch."""
        count, portion = len(images), PORTION if images.device.type == "cpu" else AT_ONCE
        filled = images[torch.arange(-(-count // portion) * portion, device=images.device) % count]
        traces = [self.teacher.trace(part) for part in filled.split(AT_ONCE)]
        return {name: torch.cat([getattr(trace, name) for trace in traces])[:count] for name in self.answers}

    @property
    def share(self) -> float:
        """The share of the main phase's images that were looked up, since the run last started or resumed."""
        return self.looked_up / max(self.seen, 1)


class Rows:
    """A file of rows, read through a memory map and written with file writes.

    On a full disk, a file write raises an error that can be handled. A write through the map would end the process.
    """

    def __init__(self, file: Path, count: int, width: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.width = width
        self.file = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        self.file.truncate(2 * count * width)  # sparse: unwritten rows take no space
        self.rows = np.memmap(self.file, np.float16, "r", shape=(count, width))
        self.full = False

    def read(self, places: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(self.rows[places]).float()

    def write(self, places: np.ndarray[Any, Any], answers: Tensor) -> Tensor:
        """Store the answers, and return them as they will be read."""
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
                warnings.warn(f"{self.file.name} stores no more answers: {error.strerror}", stacklevel=2)
        return torch.where(fits[:, None], rounded.float(), answers)


def moved(answer: Tensor, device: torch.device) -> Tensor:
    """Copy without a wait: the device can read pinned memory while this process continues."""
    return answer.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else answer


# -- when a memory is used --------------------------------------------------------------------------------------------


def rememberable(needs: Needs, teacher: Chain) -> bool:
    """Whether a method needs nothing from the teacher but vectors for the recipe's views."""
    more = needs.teacher or needs.live_teacher or needs.input_grad or needs.teacher_train
    vectors = not needs.teacher_embedding or teacher.form(len(teacher) - 1).kind == "vector"
    return not more and needs.views == ("recipe",) and vectors


def affordable(needs: Needs, teacher: Chain, views: int) -> bool:
    """Whether a teacher's answers to a method can be cached, and all of them fit the limit."""
    return rememberable(needs, teacher) and size(needs, teacher, views) <= limit()


def size(needs: Needs, teacher: Chain, views: int) -> int:
    """The size of a full memory, in bytes."""
    width = teacher.classes + (teacher.embedding_width if needs.teacher_embedding else 0)
    return 2 * views * width


def limit() -> float:
    """The largest memory of a teacher for a method that is allowed, in bytes."""
    asked = os.environ.get("KDBENCH_MEMORY_GB", "4.5")
    try:
        gigabytes = float(asked)
    except ValueError:
        gigabytes = -1
    if not gigabytes >= 0:
        raise Refusal(f"KDBENCH_MEMORY_GB must be a number of gigabytes, 0 or more, got '{asked}'")
    return gigabytes * GIGABYTE
