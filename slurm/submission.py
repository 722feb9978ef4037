"""Submissions, as files beside the records. All later information about the jobs is derived from them.

    jobs/NAME/submission.json   which cells are in which job
    jobs/NAME/code.zip          the code at the time
    jobs/NAME/0/ 1/ ...         files of submitit for each array, including logs

An array's name in the queue names its submission. Job numbers therefore need not be stored, and a submission that was
interrupted is known as far as it got.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kdbench.benchmark.records.store import Store
from kdbench.benchmark.whole import write
from kdbench.slurm.queue import Queued


class Submission(msgspec.Struct, frozen=True):
    name: str
    grid: str
    site: str
    submitted: str
    arrays: list[list[list[str]]]  # the ids of the cells, by array and job

    def array(self, number: int) -> str:
        """The array's name in the queue."""
        return f"{self.name}.{number}"

    def jobs(self) -> Iterator[tuple[int, int, list[str]]]:
        """Each job's array, its place in it, and the ids of its cells."""
        for number, jobs in enumerate(self.arrays):
            for place, ids in enumerate(jobs):
                yield number, place, ids


def folder(store: Store) -> Path:
    return store.folder / "jobs"


def keep(submission: Submission, store: Store) -> None:
    content = msgspec.json.format(msgspec.json.encode(submission), indent=1)
    write(folder(store) / submission.name / "submission.json", content)


def submissions(store: Store) -> list[Submission]:
    """All submissions, the oldest first."""
    found = []
    for file in folder(store).glob("*/submission.json"):
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(file.read_bytes(), type=Submission))
    return sorted(found, key=lambda submission: submission.submitted)


def submitted(store: Store) -> set[str]:
    """The ids of all cells that were ever submitted."""
    return {cell_id for submission in submissions(store) for _, _, ids in submission.jobs() for cell_id in ids}


def waiting(store: Store, queue: dict[tuple[str, int], Queued]) -> dict[str, Queued]:
    """The cells that are in the queue, with their jobs."""
    cells: dict[str, Queued] = {}
    for submission in submissions(store):
        for number, place, ids in submission.jobs():
            if job := queue.get((submission.array(number), place)):
                cells |= dict.fromkeys(ids, job)
    return cells


def logs(store: Store, cell_id: str) -> list[Path]:
    """The logs of the jobs that a cell was in, the newest last."""
    found = []
    for submission in submissions(store):
        for number, place, ids in submission.jobs():
            if cell_id in ids:
                here = folder(store) / submission.name / str(number)
                alone = len(submission.arrays[number]) == 1  # a single job is no array
                # Only the log of the first task: it reports the errors of the others.
                found += [log for log in here.glob("*_0_log.out") if alone or log.name.split("_")[1] == str(place)]
    return sorted(found, key=lambda log: log.stat().st_mtime)
