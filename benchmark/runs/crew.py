"""The ranks of a cell that several processes train together. The first has the cell's lease; the others follow it."""

import contextlib
import multiprocessing
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from kdbench.benchmark import extensions
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.run import run
from kdbench.benchmark.training.engine import Engine, out_of_memory
from kdbench.benchmark.training.loop import Live
from kdbench.benchmark.training.ranks import ALONE, Ranks
from kdbench.refusal import in_a_line, in_a_sentence


class Interrupted(BaseException):
    """The run was asked to stop; its last checkpoint has just been written."""


class Told(Exception):
    """An error in this rank. The first rank has been told, and writes the failure."""


def follow(ranks: Ranks, store: Store, engine: Engine, data_folder: Path) -> None:
    """Run every cell that the first rank runs, until there is none left. The first rank takes care of the results."""
    for sign in (signal.SIGTERM, signal.SIGUSR2):  # the first rank writes its checkpoint, then tells this one to stop
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
    """An error in one line."""
    return f"ran out of memory: {in_a_line(error)}" if out_of_memory(error) else in_a_sentence(error)


@contextlib.contextmanager
def crew(
    first: Engine, others: Sequence[Engine], results: Path, data_folder: Path, files: Sequence[Path]
) -> Iterator[Ranks]:
    """Make this process the first of several ranks on this machine, and start a process for each of the others."""
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
                dist.destroy_process_group()  # this process may lead another crew later


def _member(
    rank: int, world: int, meeting: Path, engine: Engine, threads: int,
    results: Path, data_folder: Path, files: Sequence[Path],
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    for file in files:
        extensions.load(file)
    with contextlib.suppress(Told):
        follow(Ranks.join(rank, world, meeting, engine.device), Store(results), engine, data_folder)
