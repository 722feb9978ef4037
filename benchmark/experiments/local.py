"""The verb ``run``: a grid on this machine, or one cell anew."""

import signal
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from kdbench.benchmark import data, extensions
from kdbench.benchmark.experiments.cell import Cell
from kdbench.benchmark.experiments.crew import crew
from kdbench.benchmark.experiments.grid import Grid
from kdbench.benchmark.experiments.launcher import Launcher, engines
from kdbench.benchmark.experiments.plan import State, plan, to_be_run, unworkable
from kdbench.benchmark.experiments.record import Record, same_bits
from kdbench.benchmark.experiments.run import run
from kdbench.benchmark.experiments.store import Store
from kdbench.benchmark.experiments.summary import plan_text, time_left
from kdbench.benchmark.experiments.words import counted, duration, warn
from kdbench.benchmark.experiments.worker import Status
from kdbench.benchmark.training.checkpoint import Checkpoints
from kdbench.benchmark.training.engine import Compile
from kdbench.benchmark.training.loop import Diverged, Live
from kdbench.refusal import Refusal


def run_grid(
    grid: Grid, results: Path, data_folder: Path, workers: int | None = None, *, retry_failed: bool = False,
    **settings: Any,
) -> int:  # fmt: skip
    """Run what is missing; the exit code is 1 where a cell failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever asks politely is answered as Ctrl-C is
    store = Store(results)
    made = to_be_run(grid, store)
    again = made.those(State.FAILED) if retry_failed else []
    todo = [*made.those(State.MISSING, State.RUNNING), *again]
    if not todo:
        print(plan_text(made))
        print("Nothing is left to run.")
        return int(bool(made.those(State.FAILED)))
    workers = _places(grid.name, workers, max(entry.cell.world for entry in todo))
    (results / "work").mkdir(parents=True, exist_ok=True)  # what cannot be written ends here, and not in a worker
    for dataset in {entry.cell.dataset for entry in todo}:
        data.load(dataset, data_folder)  # read, or downloaded, before any worker asks for it
    if again:  # only now, when nothing is refused any more
        for entry in again:
            store.forgive(entry.cell.id)
        made = plan(grid, store)

    print(f"{grid.name}: {len(todo)} of {counted(len(made.entries), 'cell')} to run, {time_left(made)}", flush=True)
    with Bars() as bars:
        outcomes = Launcher(store, data_folder, workers, bars, **settings).launch(made)
    warn(store.troubles)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    if outcomes["failed"]:
        print(f"Failures in full: {store.failures_folder}/; run them again with --retry failed.")
    return int(outcomes["failed"] + outcomes["blocked"] + len(made.those(State.FAILED)) > 0)


def _places(name: str, workers: int | None, world: int) -> int:
    """How many processes may train at once: a GPU each; without GPUs as many as a cell needs."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    places = workers or gpus or world
    if world > 1 and gpus:  # ranks of one cell never share a GPU
        places = min(places, gpus)
    if world > places:
        kind = "GPUs" if gpus else "workers"
        raise Refusal(f"{name}: a cell of world {world} must have as many {kind}, got {places}")
    return places


def run_again(
    name: str, results: Path, data_folder: Path, live_teacher: bool = False, compile: Compile = "auto"
) -> int:
    """Run a record's cell anew, in its own manner unless another is asked for, and say whether it gives the same bits;
    its teacher must be there. ``name`` is a record's id, or a file that holds a record or a cell; a cell that has no
    record here leaves one."""
    store = Store(results)
    record = store.record(name) if Path(name).name == name else None
    record, cell = (record, record.cell) if record else _record_or_cell(Path(name))
    record = record or store.record(cell.id)
    extensions.needs(cell.files)
    if record is None and (why := unworkable(cell)):
        raise Refusal(f"{cell.id} cannot work: {why}")
    if record:  # how sums are split over threads changes the last bits, and so does compilation
        arithmetic = record.environment.arithmetic
        torch.set_num_threads(min(arithmetic.get("threads", 1), torch.get_num_threads()))
        live_teacher |= arithmetic.get("teacher") != "remembered"
        if compile == "auto":
            compile = "on" if "compile" in arithmetic else "off"
    places = _places(cell.id, None, cell.world)
    engine, *others = engines(places, live_teacher=live_teacher, compile=compile)[: cell.world]
    with (
        tempfile.TemporaryDirectory() as scratch,
        crew(engine, others, results, data_folder, extensions.files()) as ranks,
    ):

        def watch(_: Live) -> None:
            ranks.told(False)

        ranks.given(cell)
        try:
            fresh, weights = run(cell, store, engine, data_folder, Checkpoints(Path(scratch)), watch, ranks)
        except Diverged as error:
            raise Refusal(f"{cell.id}: {error}") from error
    print(f"{cell.id}: top-1 {fresh.result.top1:.2f} in {duration(fresh.cost.wall_seconds)}")
    if record is None:
        store.finish(fresh, weights)
        return 0
    if same_bits(fresh.result, record.result):
        print("The same bits as the record.")
        return 0
    if fresh.result.teacher_weights != record.result.teacher_weights:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: its teacher has other weights.")
        return 0
    if fresh.environment.key != record.environment.key:
        print(f"Other bits than the record ({record.result.top1:.2f}), as may be: it comes from another environment.")
        return 0
    print(f"Other bits than the record ({record.result.top1:.2f}), in the same environment.")
    return 1


def _record_or_cell(file: Path) -> tuple[Record | None, Cell]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Refusal(f"--cell must be a finished cell's id, or a file, got {file}: {error.strerror}") from None
    decode = msgspec.yaml.decode if file.suffix in (".yaml", ".yml") else msgspec.json.decode
    try:
        record: Record = decode(content, type=Record)
        return record, record.cell
    except (ValueError, RecursionError):  # ValueError: msgspec's, and those of text
        try:
            return None, decode(content, type=Cell)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{file} must be a record or a cell: {error}") from None


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
