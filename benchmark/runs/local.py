"""The command ``run``: a grid on this machine."""

from pathlib import Path
from typing import Any

from kdbench.benchmark import data
from kdbench.benchmark.plans.grid import Grid
from kdbench.benchmark.plans.plan import Plan, State, plan
from kdbench.benchmark.plans.soundness import with_sound_teachers
from kdbench.benchmark.records.record import Brief
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.runs.bars import Bars
from kdbench.benchmark.runs.launcher import Launcher, places
from kdbench.benchmark.runs.summary import left_alone, plan_text, time_left
from kdbench.benchmark.words import counted, warn
from kdbench.portable import portable


def run_grid(
    grid: Grid, results: Path, data_folder: Path, workers: int | None = None, *, retry: str | None = None,
    **settings: Any,
) -> int:  # fmt: skip
    """Run the missing cells. The exit code is 1 if a cell failed, or was skipped because its teacher failed."""
    store = Store(results)
    made = with_sound_teachers(grid, store, retry)
    todo = made.those(State.MISSING, State.RUNNING)
    done = list(store.briefs({entry.cell.id for entry in made.those(State.FINISHED)})) if todo or portable() else []
    _say_what_is_not_portable(made, done)
    if not todo:
        print(plan_text(made))
        print("Nothing is left to run.")
        return int(_failed(made, store))
    workers = places(grid.name, workers, max(entry.cell.world for entry in todo))
    (results / "work").mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails here, not in a worker
    _load_data({entry.cell.dataset for entry in todo}, data_folder, done)
    if retry:  # only now, after everything that may refuse the run
        for entry in made.those(State.MISSING):
            store.forgive(entry.cell.id)

    print(f"{grid.name}: {len(todo)} of {counted(len(made.entries), 'cell')} to run, {time_left(made)}", flush=True)
    if alone := left_alone(made):
        print("\n".join(alone), flush=True)
    with Bars() as bars:
        outcomes = Launcher(store, data_folder, workers, bars, **settings).launch(made)
    warn(store.troubles)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    if outcomes["failed"]:
        print(f"Failures in full: {store.failures_folder}/; run them again with --retry {retry or State.FAILED}.")
    if any(entry.cell.id in grid.teachers for entry in todo) and (old := plan(grid, store).those(State.OUTDATED)):
        print(f"Outdated: {counted(len(old), 'cell')}; run again with --retry outdated.")
    return int(bool(outcomes["failed"] or outcomes["blocked"]) or _failed(made, store))


def _load_data(names: set[str], folder: Path, done: list[Brief]) -> None:
    """Read or download data sets before a worker needs them, and warn if they have changed."""
    for name in sorted(names):
        dataset = data.load(name, folder)
        known = [record.data for record in done if record.cell.dataset == name and record.data]
        now = dataset.digest() if known else ""  # slow for a million files
        if others := sum(before != now for before in known):
            cells = counted(others, "finished cell")
            warn([f"{name} has changed: {cells} of this grid used the earlier data and will be kept"])


def _say_what_is_not_portable(made: Plan, done: list[Brief]) -> None:
    """Warn of finished cells that are not portable. A student's bits are portable only if its teacher's are."""
    ordinary = [record for record in done if not record.environment.arithmetic.get("portable")]
    if portable() and ordinary:
        teachers = sum(one.id in made.grid.teachers for one in ordinary)
        among = f", {counted(teachers, 'teacher')} among them," if teachers else ""
        warn([f"{counted(len(ordinary), 'finished cell')}{among} ran without --portable and will be kept"])


def _failed(made: Plan, store: Store) -> bool:
    """Whether a cell failed before, including outdated cells that failed when they were retrained."""
    old = made.those(State.OUTDATED)
    return bool(made.those(State.FAILED)) or any(store.failure(entry.cell.id) for entry in old)
