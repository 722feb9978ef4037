"""Options that several commands share, and how commands print their results."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from kdbench.benchmark.words import warn

if TYPE_CHECKING:
    from kdbench.benchmark.plans.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])
A_PATH = click.Path(path_type=Path)


results = click.option(
    "--results", type=A_PATH, default="results", envvar="KDBENCH_RESULTS", show_default=True, show_envvar=True,
    help="Folder of the records.",
)  # fmt: skip
data = click.option(
    "--data", type=A_PATH, default="data", envvar="KDBENCH_DATA", show_default=True, show_envvar=True,
    help="Folder of the data sets.",
)  # fmt: skip
files = click.option(
    "--with", "files", type=A_PATH, multiple=True, metavar="FILE.py",
    help="Python file that registers your own methods, networks or data sets. Can be given several times.",
)  # fmt: skip
retry = click.option(
    "--retry", type=click.Choice(["failed", "outdated"]),
    help="Run failed cells again; or outdated ones, whose teacher has been retrained since.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def settings(verb: F) -> F:
    """Adds the options that decide how the arithmetic is done: the settings of an engine."""

    @click.option(
        "--live-teacher", is_flag=True,
        help="Query the teacher at every step; neither read nor write its cached answers.",
    )  # fmt: skip
    @click.option(
        "--compile", type=click.Choice(["auto", "on", "off"]), default="auto", envvar="KDBENCH_COMPILE",
        show_default=True, show_envvar=True,
        help="Compile the training step. auto: only if the run is long and the device is a GPU.",
    )  # fmt: skip
    @click.option(
        "--portable", is_flag=True, envvar="KDBENCH_PORTABLE", show_envvar=True,
        help="Give the same bits on every x86 processor with AVX2: one thread a worker, no GPU, no newer instructions.",
    )  # fmt: skip
    @functools.wraps(verb)
    def told(*args: Any, live_teacher: bool, compile: str, portable: bool, **others: Any) -> Any:
        if portable:
            from kdbench.portable import compute_portably

            compute_portably()
        return verb(*args, settings={"live_teacher": live_teacher, "compile": compile}, **others)

    return cast(F, told)


def _grid_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kdbench.benchmark.plans.grid import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def grid(required: bool) -> Callable[[F], F]:
    return click.argument(
        "grid", metavar="GRID" if required else "[GRID]", required=required, shell_complete=_grid_names
    )


def planned(grid: str, results: Path, files: tuple[Path, ...]) -> "Plan":
    from kdbench.benchmark.plans.grid import load
    from kdbench.benchmark.plans.plan import plan
    from kdbench.benchmark.records.store import Store

    load_files(files)
    store = Store(results)
    made = plan(load(grid), store)
    warn(store.troubles)
    return made


def ids(grid: str | None, files: tuple[Path, ...]) -> set[str] | None:
    """The ids of a grid's cells and of their teachers; None without a grid, which means all."""
    from kdbench.benchmark.plans.grid import load

    load_files(files)
    if grid is None:
        return None
    asked = load(grid)
    return {cell.id for cell in asked.cells} | asked.teachers.keys()


def load_files(files: tuple[Path, ...]) -> None:
    if files:
        from kdbench.benchmark import extensions

        for file in files:
            extensions.load(file)


def say(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    print(json.dumps(value, indent=2) if as_json else text())
