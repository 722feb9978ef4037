"""The state of a submitted grid, from the files in the results folder and from the scheduler."""

import time

from kdbench.benchmark.plans.plan import Plan, State
from kdbench.benchmark.records.cell import called
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.summary import Sent
from kdbench.benchmark.words import counted
from kdbench.refusal import Refusal, nearest
from kdbench.slurm import queue
from kdbench.slurm.submission import folder, logs, submitted, waiting

ENDING = 60.0  # seconds to wait for cancelled jobs
LINES = 40  # shown from the end of a log


def sent(plan: Plan, store: Store) -> Sent:
    """The state of the missing cells that were submitted, and of the outdated ones that were resubmitted."""
    known = submitted(store)
    missing = [entry.cell.id for entry in plan.those(State.MISSING) if entry.cell.id in known]
    outdated = [entry.cell.id for entry in plan.those(State.OUTDATED) if entry.cell.id in known]
    if not missing and not outdated:
        return Sent({}, {})
    try:
        there = waiting(store, queue.queued())
    except Refusal as refusal:
        return Sent(dict.fromkeys(missing, f"submitted; {refusal}"), {})
    busy = {there[e.cell.id].job for e in plan.those(State.RUNNING) if e.cell.id in there}
    pending = {}
    for key in (key for key in missing + outdated if key in there):
        pending[key] = _in_words(there[key], there[key].job in busy)
        busy.add(there[key].job)  # only the first of a job's cells can be starting
    # A cell that has ended since the plan was made is not lost.
    ended = store.outlines().keys() | store.failures().keys()
    lost = [key for key in missing if key not in there and key not in ended]
    why = {entry.cell.id: entry.reason for entry in plan.those(State.MISSING) if entry.reason}
    return Sent(pending, {key: why.get(key, f"its job left no record: 'logs {key}'; 'submit' resumes") for key in lost})


def _in_words(job: queue.Queued, busy: bool) -> str:
    if job.state == "RUNNING":
        return f"job {job.job} runs: {'other cells come first' if busy else 'starting'}"
    return f"job {job.job} {job.state.lower()}" + (f": {job.reason}" if job.reason not in ("", "None") else "")


def cancel(plan: Plan, store: Store) -> str:
    """Cancel a grid's jobs, and wait until they have written their checkpoints."""
    jobs = _jobs(plan, store)
    if not jobs:
        return "No cell of this grid is in the queue."
    queue.cancel(jobs)
    deadline = time.monotonic() + ENDING
    while (left := _jobs(plan, store)) and time.monotonic() < deadline:
        time.sleep(0.5)
    pickles = {f"{job}_submitted.pkl" for job in set(jobs) - set(left)}
    for file in folder(store).glob("*/*/*_submitted.pkl"):
        if file.name in pickles:
            file.unlink(missing_ok=True)
    ending = f"; {len(left)} of them are still ending" if left else ""
    return f"Cancelled {counted(len(jobs), 'job')}{ending}; 'submit' resumes them."


def _jobs(plan: Plan, store: Store) -> list[str]:
    if not submitted(store):  # perhaps there is no SLURM on this machine
        return []
    there = waiting(store, queue.queued())
    return sorted({there[entry.cell.id].job for entry in plan.entries if entry.cell.id in there})


def tail(cell: str, store: Store) -> str:
    """The end of a cell's newest log, and the paths of all its logs."""
    known = submitted(store)
    found = called(cell, known)
    if len(found) != 1:
        hint = f"; {len(found)} start with it" if found else nearest(cell, known)
        if not found and (here := called(cell, store.outlines().keys() | store.failures().keys())):
            hint = f"; it ran on this machine: 'kdbench show {here[0]}'"
        raise Refusal(f"unknown submitted cell '{cell}'{hint}")
    files = logs(store, found[0])
    if not files:
        return f"{found[0]} has no log yet: its job has not started."
    text = files[-1].read_text(errors="replace").splitlines()
    return "\n".join([*map(str, files), "", *text[-LINES:]])
