"""The verb ``run``: a grid on this machine."""

import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from kdbench.benchmark import data
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.launcher import Launcher, places
from kdbench.benchmark.experiments.plan import State, plan, to_be_run
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import plan_text, time_left
from kdbench.benchmark.experiments.words import counted, duration, warn
from kdbench.benchmark.experiments.worker import Status


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
        return int(bool(made.those(State.FAILED)))
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
        print(f"Failures in full: {store.failures_folder}/; run them again with --retry failed.")
    if any(entry.cell.id in grid.teachers for entry in todo) and (old := plan(grid, store).those(State.OUTDATED)):
        print(f"{counted(len(old), 'cell')} outdated by now; run them again with --retry outdated.")
    return int(outcomes["failed"] + outcomes["blocked"] + len(made.those(State.FAILED)) > 0)


class Bars:
    """A bar for the grid and one for every cell that runs; where nobody watches, a line a finished cell."""

    def __init__(self) -> None:
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self.bars = Progress(MofNCompleteColumn(), *columns, console=self.console, transient=True)
        self.rows: dict[str, TaskID] = {}
        self.whole = self.bars.add_task("cells", total=0, note="")

    def __enter__(self) -> "Bars":
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def total(self, cells: int) -> None:
        self.bars.update(self.whole, total=cells)

    def live(self, cell: Cell, status: Status) -> None:
        if cell.id not in self.rows:
            self.rows[cell.id] = self.bars.add_task(cell.id, total=100, note="")
        left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
        note = f"{'' if status.phase == 'main' else status.phase + ' '}epoch {status.epoch}/{status.epochs}{left}"
        self.bars.update(self.rows[cell.id], completed=100 * status.share, note=note)

    def over(self, cell: Cell, outcome: str, reason: str) -> None:
        if cell.id in self.rows:
            self.bars.remove_task(self.rows.pop(cell.id))
        self.bars.advance(self.whole)
        self._say(f"{outcome}  {cell.id}{': ' + reason if reason else ''}")

    def warn(self, text: str) -> None:
        self._say(f"kdbench: {text}")

    def _say(self, line: str) -> None:
        """As it is: a log's lines are as long as they are."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
