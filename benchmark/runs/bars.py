"""Shows the progress of the cells that run on this machine."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from kdbench.benchmark.records.cell import Cell
from kdbench.benchmark.runs.worker import Status
from kdbench.benchmark.words import duration


class Bars:
    """A bar for the grid and one for every running cell. Outside a terminal, only a line for every cell that ends."""

    def __init__(self, stderr: bool = False) -> None:
        self.console = Console(stderr=stderr)
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
        """Print a line without markup or line breaks, as a log needs it."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
