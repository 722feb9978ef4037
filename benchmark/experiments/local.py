"""The verb ``run``: a grid on this machine."""

import signal
from pathlib import Path
from typing import Any

from kdbench.benchmark import data
from kdbench.benchmark.experiments.bars import Bars
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.launcher import Launcher, places
from kdbench.benchmark.experiments.plan import Plan, State, plan, to_be_run
from kdbench.benchmark.experiments.record import Brief
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import left_alone, plan_text, time_left
from kdbench.benchmark.experiments.weights import trained
from kdbench.benchmark.experiments.words import counted, warn
from kdbench.portable import portable
from kdbench.refusal import Refusal


def run_grid(
    grid: Grid, results: Path, data_folder: Path, workers: int | None = None, *, retry: str | None = None,
    **settings: Any,
) -> int:  # fmt: skip
    """Run what is missing; the exit code is 1 where a cell failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever asks politely is answered as Ctrl-C is
    store = Store(results)
    made = to_be_run(grid, store, retry)
    if _distrusts_teachers(made, store):
        made = to_be_run(grid, store, retry)
    todo = made.those(State.MISSING, State.RUNNING)
    done = list(store.briefs({entry.cell.id for entry in made.those(State.FINISHED)})) if todo or portable() else []
    _say_what_is_not_portable(made, done)
    if not todo:
        print(plan_text(made))
        print("Nothing is left to run.")
        return int(_failed(made, store))
    workers = places(grid.name, workers, max(entry.cell.world for entry in todo))
    (results / "work").mkdir(parents=True, exist_ok=True)  # what cannot be written ends here, and not in a worker
    _load_data({entry.cell.dataset for entry in todo}, data_folder, done)
    if retry:  # only now, when nothing is refused any more
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
        print(f"{counted(len(old), 'cell')} outdated by now; run them again with --retry outdated.")
    return int(bool(outcomes["failed"] or outcomes["blocked"]) or _failed(made, store))


def _distrusts_teachers(made: Plan, store: Store) -> bool:
    """Weights that students wait for, and that are not what the teacher's record says, are set aside."""
    taught = {entry.cell.teacher.id for entry in made.those(State.MISSING) if entry.cell.teacher}
    distrusted = False
    for teacher in (entry.cell for entry in made.teachers if entry.state is State.FINISHED and entry.cell.id in taught):
        try:
            trained(teacher, store)
        except Refusal as refusal:
            store.distrust(teacher, str(refusal).partition(": ")[0])
            distrusted = True
    return distrusted


def _load_data(names: set[str], folder: Path, done: list[Brief]) -> None:
    """Read, or downloaded, before any worker asks for it; and seen to be what it was."""
    for name in sorted(names):
        dataset = data.load(name, folder)
        known = [record.data for record in done if record.cell.dataset == name and record.data]
        now = dataset.digest() if known else ""  # of a million files it takes a while
        if others := sum(before != now for before in known):
            cells = counted(others, "finished cell")
            warn([f"{name} has become another: {cells} of this grid ran on what it was, and stay as they are"])


def _say_what_is_not_portable(made: Plan, done: list[Brief]) -> None:
    """A student has the same bits everywhere only where its teacher has."""
    ordinary = [record for record in done if not record.environment.arithmetic.get("portable")]
    if portable() and ordinary:
        teachers = sum(one.id in made.grid.teachers for one in ordinary)
        among = f", {counted(teachers, 'teacher')} among them," if teachers else ""
        warn([f"{counted(len(ordinary), 'finished cell')}{among} ran without --portable, and stay as they are"])


def _failed(made: Plan, store: Store) -> bool:
    """Whether a cell failed before; an outdated one perhaps when it was trained again."""
    old = made.those(State.OUTDATED)
    return bool(made.those(State.FAILED)) or any(store.failure(entry.cell.id) for entry in old)
