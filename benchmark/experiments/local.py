"""The verb ``run``: a grid on this machine."""

import signal
from pathlib import Path
from typing import Any

from kdbench.benchmark import data
from kdbench.benchmark.experiments.bars import Bars
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.launcher import Launcher, places
from kdbench.benchmark.experiments.plan import Plan, State, plan, to_be_run
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import plan_text, time_left
from kdbench.benchmark.experiments.words import counted, warn


def run_grid(
    grid: Grid, results: Path, data_folder: Path, workers: int | None = None, *, retry: str | None = None,
    **settings: Any,
) -> int:  # fmt: skip
    """Run what is missing; the exit code is 1 where a cell failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever asks politely is answered as Ctrl-C is
    store = Store(results)
    made = to_be_run(grid, store, retry)
    todo = made.those(State.MISSING, State.RUNNING)
    if not todo:
        print(plan_text(made))
        print("Nothing is left to run.")
        return int(_failed(made, store))
    workers = places(grid.name, workers, max(entry.cell.world for entry in todo))
    (results / "work").mkdir(parents=True, exist_ok=True)  # what cannot be written ends here, and not in a worker
    for dataset in {entry.cell.dataset for entry in todo}:
        data.load(dataset, data_folder)  # read, or downloaded, before any worker asks for it
    if retry:  # only now, when nothing is refused any more
        for entry in made.those(State.MISSING):
            store.forgive(entry.cell.id)

    print(f"{grid.name}: {len(todo)} of {counted(len(made.entries), 'cell')} to run, {time_left(made)}", flush=True)
    if outdated := made.those(State.OUTDATED):
        print(f"{counted(len(outdated), 'cell')} outdated, and left as they are without --retry outdated", flush=True)
    with Bars() as bars:
        outcomes = Launcher(store, data_folder, workers, bars, **settings).launch(made)
    warn(store.troubles)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    if outcomes["failed"]:
        print(f"Failures in full: {store.failures_folder}/; run them again with --retry {retry or State.FAILED}.")
    if any(entry.cell.id in grid.teachers for entry in todo) and (old := plan(grid, store).those(State.OUTDATED)):
        print(f"{counted(len(old), 'cell')} outdated by now; run them again with --retry outdated.")
    return int(bool(outcomes["failed"] or outcomes["blocked"]) or _failed(made, store))


def _failed(made: Plan, store: Store) -> bool:
    """Whether a cell failed before; an outdated one perhaps when it was trained again."""
    old = made.those(State.OUTDATED)
    return bool(made.those(State.FAILED)) or any(store.failure(entry.cell.id) for entry in old)
