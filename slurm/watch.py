"""What becomes of a submitted grid, from the files that are there and what the scheduler says."""

from kdbench.benchmark.experiments.plan import Plan, State
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import Sent
from kdbench.methods.refusal import Refusal, nearest
from kdbench.slurm import queue
from kdbench.slurm.submission import logs, submissions, waiting

LINES = 40  # of a log, at its end


def sent(plan: Plan, store: Store) -> Sent:
    """Where the missing cells are that were submitted once."""
    submitted = {key for s in submissions(store) for array in s.arrays for job in array for key in job}
    missing = [entry.cell.id for entry in plan.those(State.MISSING) if entry.cell.id in submitted]
    if not missing:
        return Sent({}, {})
    try:
        there = waiting(store, queue.queued())
    except Refusal as refusal:
        return Sent(dict.fromkeys(missing, f"submitted; {refusal}"), {})
    return Sent(
        {key: _in_words(there[key]) for key in missing if key in there},
        {key: "its job is over and left no record; submit again: it goes on" for key in missing if key not in there},
    )


def _in_words(job: queue.Queued) -> str:
    return f"job {job.job} {job.state.lower()}" + (f": {job.reason}" if job.reason not in ("", "None") else "")


def cancel(plan: Plan, store: Store) -> str:
    """Take a grid's jobs out of the queue; cells that ran have their checkpoints."""
    there = waiting(store, queue.queued())
    jobs = sorted({there[entry.cell.id].job for entry in plan.entries if entry.cell.id in there})
    if not jobs:
        return "Nothing of this grid is in the queue."
    queue.cancel(jobs)
    return f"Cancelled {len(jobs)} jobs; 'submit' goes on where they were."


def tail(cell: str, store: Store) -> str:
    """The end of a cell's newest log, and where the rest is."""
    known = {key for s in submissions(store) for array in s.arrays for job in array for key in job}
    found = [key for key in known if key.startswith(cell)]
    if len(found) != 1:
        hint = "; several begin so" if found else nearest(cell, known)
        raise Refusal(f"no submitted cell is called '{cell}'{hint}")
    files = logs(store, found[0])
    if not files:
        return f"{found[0]} has no log yet: its job has not begun."
    text = files[-1].read_text(errors="replace").splitlines()
    return "\n".join([*map(str, files), "", *text[-LINES:]])
