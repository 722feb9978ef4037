"""The ranks of a cell that several processes train together: the first has the cell's lease, the others follow it."""

import contextlib
import multiprocessing
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from kdbench.benchmark import extensions
from kdbench.benchmark.experiments.run import run
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.training.engine import Engine, out_of_memory
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.training.ranks import ALONE, Ranks


class Interrupted(BaseException):
    """The run was asked to stop; its last checkpoint has just been written."""


class Told(Exception):
    """What went wrong in this rank; the first one knows, and leaves the failure."""


def follow(ranks: Ranks, store: Store, engine: Engine, data_folder: Path) -> None:
    """Run every cell that the first rank runs, until it has no other. What comes of it is the first one's business."""
    for sign in (signal.SIGTERM, signal.SIGUSR2):  # it stops when the first one says so, with its checkpoint written
        signal.signal(sign, signal.SIG_IGN)

    def watch(_: Live) -> None:
        if ranks.told(False):
            raise Interrupted

    with contextlib.suppress(Interrupted):
        while cell := ranks.given(None):
            try:
                run(cell, store, engine, data_folder, None, watch, ranks)
            except Exception as error:
                ranks.complain(why := describe(error))
                raise Told(why) from error


def describe(error: BaseException) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return f"ran out of memory: {text[:300]}"
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextlib.contextmanager
def crew(
    first: Engine, others: Sequence[Engine], results: Path, data_folder: Path, files: Sequence[Path]
) -> Iterator[Ranks]:
    """This process as the first of several ranks on this machine, and a process more for each of the others."""
    if not others:
        yield ALONE
        return
    world = 1 + len(others)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        places = [
            (rank, world, meeting, engine, torch.get_num_threads(), results, data_folder, files)
            for rank, engine in enumerate(others, start=1)
        ]
        processes = [context.Process(target=_member, args=place) for place in places]
        for process in processes:
            process.start()
        try:
            yield Ranks.join(0, world, meeting, first.device)
        finally:
            for process in processes:
                process.kill()
                process.join()
            if dist.is_initialized():
                dist.destroy_process_group()  # the next crew of this process meets anew


def _member(
    rank: int, world: int, meeting: Path, engine: Engine, threads: int,
    results: Path, data_folder: Path, files: Sequence[Path],
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    for file in files:
        extensions.load(file)
    with contextlib.suppress(Told):
        follow(Ranks.join(rank, world, meeting, engine.device), Store(results), engine, data_folder)
