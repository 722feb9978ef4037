"""The ``kdbench`` command. Each subcommand imports what it needs when it runs: ``kdbench --help`` stays fast."""

import errno
import signal
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

import kdbench
from kdbench.benchmark.comparison.verbs import compare
from kdbench.benchmark.leaderboard.verbs import leaderboard, quality
from kdbench.benchmark.options import (
    as_json,
    data,
    files,
    grid,
    load_files,
    planned,
    results,
    retry,
    say,
    settings,
)
from kdbench.benchmark.records.verbs import records, teacher
from kdbench.benchmark.throughput.verbs import throughput
from kdbench.benchmark.words import columns, warn
from kdbench.refusal import Refusal
from kdbench.slurm.verbs import cancel, devcluster, logs, submit


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kdbench.__version__)
def app() -> None:
    """Which knowledge should a small network take from a large one?

    Declare a grid of students, teachers, data sets, methods and seeds; run it; read the leaderboard. GRID is the name
    of a shipped grid, or your own YAML file.

    \b
    Examples:
      kdbench list grids                show the shipped grids
      kdbench plan quickstart           show what a run would do
      kdbench run quickstart            run the cells that have no record yet
      kdbench leaderboard quickstart    write tables, pictures and a page
    """


for _verb in (records, teacher, quality, throughput, leaderboard, compare, submit, cancel, logs, devcluster):
    app.add_command(_verb)


@app.command("list")
@click.argument("noun", type=click.Choice(["methods", "networks", "datasets", "recipes", "grids", "sites"]))
@files
@as_json
def list_names(noun: str, files: tuple[Path, ...], as_json: bool) -> None:
    """List everything of a kind, one line each.

    \b
    Examples:
      kdbench list methods
      kdbench list networks --json
      kdbench list methods --with my_method.py
    """
    from kdbench.benchmark import catalogue

    load_files(files)
    if noun == "sites":
        from kdbench.slurm import site

        rows = site.listed()
    else:
        rows = catalogue.listed(noun)
    say(rows, as_json, lambda: columns(rows))


@app.command()
@click.argument("name")
@data
@results
@files
@as_json
def show(name: str, data: Path, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Show everything about a name.

    NAME is that of a method, network, data set, recipe, grid or site, or of a finished or failed cell. A cell is named
    by its id, the start of its id, or the start of the digest at the end of its id.

    \b
    Examples:
      kdbench show kd
      kdbench show cifar-240
      kdbench show resnet8x4
      kdbench show gpu-partition
      kdbench show 7f18230f
    """
    from kdbench.benchmark import catalogue
    from kdbench.slurm import site

    load_files(files)
    found = site.described(name) if name in site.shipped() else catalogue.described(name, results, data)
    say(found, as_json, lambda: catalogue.paragraphs(found))


@app.command()
@grid(required=True)
@data
@results
@files
@as_json
def plan(grid: str, data: Path, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Show what `run` would do.

    Shows the cells that are finished, outdated, running, failed, missing and invalid, the hours left, and missing data
    sets.

    \b
    Examples:
      kdbench plan quickstart
      kdbench plan my_grid.yaml --json
    """
    from kdbench.benchmark.runs import summary

    made = planned(grid, results, files)
    absent = summary.absent(made, data)
    told = {"data_not_there": absent}
    say(summary.of_plan(made) | told, as_json, lambda: "\n".join([summary.plan_text(made), *absent]))


@app.command()
@grid(required=False)
@click.option(
    "--cell", metavar="CELL",
    help="Run a finished cell again and compare the bits. CELL is its id, the digest at its end, or its record's file.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: one per GPU, or one]")
@retry
@settings
@data
@results
@files
def run(
    grid: str | None,
    cell: str | None,
    workers: int | None,
    retry: str | None,
    settings: dict[str, Any],
    data: Path,
    results: Path,
    files: tuple[Path, ...],
) -> None:
    """Run the missing cells of a grid.

    Runs on this machine, teachers first. A run can be stopped and resumed at any moment.

    Exit code 1: a cell failed, now or in an earlier run, or was skipped because its teacher failed; with --cell: the
    bits differ in the same environment, with the same data and teacher.

    \b
    Examples:
      kdbench run quickstart
      kdbench run my_grid.yaml --workers 2 --retry failed
      kdbench run my_grid.yaml --retry outdated
      kdbench run my_grid.yaml --live-teacher
      kdbench run quickstart --portable --workers 2
      kdbench run --cell 7f18230f
      kdbench run --cell their_record.json
    """
    from kdbench.benchmark.plans.grid import load
    from kdbench.benchmark.runs import local, rerun

    if (grid is None) == (cell is None):
        raise click.UsageError(f"run needs a grid or --cell, got {'neither' if grid is None else 'both'}")
    if cell is not None and (workers or retry):
        raise click.UsageError("--workers and --retry are for a grid, got --cell")
    load_files(files)
    if grid is not None:
        sys.exit(local.run_grid(load(grid), results, data, workers, retry=retry, **settings))
    elif cell is not None:
        try:
            sys.exit(rerun.run_again(cell, results, data, **settings))
        except KeyboardInterrupt:
            print("kdbench: stopped; the same command starts again from the beginning", file=sys.stderr)
            sys.exit(130)


@app.command()
@grid(required=True)
@click.option("--watch", is_flag=True, help="Refresh every ten seconds, until nothing is running or pending.")
@results
@files
@as_json
def status(grid: str, watch: bool, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Show the progress of a grid.

    Shows the cells that are finished, running with the time left, pending in a queue, lost, and failed with the reason.

    \b
    Examples:
      kdbench status quickstart
      kdbench status quickstart --watch
      kdbench status quickstart --json
    """
    from kdbench.benchmark.records.store import Store
    from kdbench.benchmark.runs import summary

    while True:
        made, sent = planned(grid, results, files), summary.NOWHERE
        if (results / "jobs").exists():
            from kdbench.slurm import watch as cluster

            sent = cluster.sent(made, Store(results))
        if watch:
            click.clear()
        say(
            summary.of_status(made, results, sent),
            as_json,
            lambda: summary.status_text(made, results, sent),  # noqa: B023
        )
        if not watch or not (made.counts()["running"] or sent.pending):
            return
        time.sleep(10)


OTHERS = "list", "claims", "incremental"  # names besides those of papers' tables


def _tables(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kdbench.benchmark.comparison.published import papers

    return [name for name in [*OTHERS, *papers()] if name.startswith(incomplete)]


@app.command()
@click.argument("name", shell_complete=_tables)
@click.option("--local", is_flag=True, help="First run the table's missing cells on this machine.")
@click.option("--site", help="Submit the table's missing cells to this cluster, and exit.")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds to run.  [default: the grid's]")
@settings
@data
@results
@files
@as_json
def reproduce(
    name: str,
    local: bool,
    site: str | None,
    seeds: int | None,
    settings: dict[str, Any],
    data: Path,
    results: Path,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Compare a paper's table with our records.

    The comparison has a verdict, and is written to reproduce-NAME.md and .csv in the results folder.

    NAME is a table. `list` shows all tables. `claims` tests statements that papers make without a number.
    `incremental` compares published results for classes that arrive task by task.

    \b
    Examples:
      kdbench reproduce list
      kdbench reproduce crd
      kdbench reproduce dkd --local --seeds 1
      kdbench reproduce crd --site my_cluster.yaml --seeds 3
      kdbench reproduce claims --json
    """
    from kdbench.benchmark.comparison import claims, incremental, published, reproduce
    from kdbench.benchmark.records.store import Store

    load_files(files)
    paper = None if name in OTHERS else published.paper(name, *OTHERS)
    if paper is None and (local or site or seeds):
        raise click.UsageError(f"--local, --site and --seeds are for a paper's table, got '{name}'")
    if as_json and (local or site):
        raise click.UsageError("--json only shows a table: it cannot be combined with --local or --site")
    if local and site:
        raise click.UsageError("a table is run either with --local or with --site, got both")
    if seeds and not (local or site):
        raise click.UsageError("--seeds sets how many seeds to run: it needs --local or --site, got neither")

    store, failed = Store(results), 0
    if paper and site:
        from kdbench.slurm.submit import submit

        print(submit(reproduce.cells_of(name, paper, seeds), site, results, data, **settings))
        return
    if paper and local:
        from kdbench.benchmark.runs.local import run_grid

        failed = run_grid(reproduce.cells_of(name, paper, seeds), results, data, **settings)
    if name == "list":
        rows = reproduce.tables(store.outlines())
        say(rows, as_json, lambda: reproduce.tables_text(rows))
    else:
        other = claims if name == "claims" else incremental
        report = reproduce.report(name, paper, store.briefs()) if paper else other.report(store.briefs())
        report.save(results)
        say(report.rows, as_json, report.markdown)
    warn(store.troubles)
    sys.exit(failed)


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script for shell completion.

    Your shell then completes commands, options and names of grids.

    \b
    Examples:
      eval "$(kdbench completion bash)"
      kdbench completion fish > ~/.config/fish/completions/kdbench.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(app, {}, "kdbench", "_KDBENCH_COMPLETE").source())


def main() -> None:
    """Run the command. Bad input gives one sentence and exit code 2; a traceback is always a bug of kdbench."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that lack a letter; stderr does so already
    try:
        app(prog_name="kdbench", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        print("kdbench: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""  # a full disk is reported without a file
        _refuse(f"{where}{error.strerror}")
    except Refusal as refusal:
        _refuse(str(refusal))


def _refuse(sentence: str) -> None:
    warn([" ".join(sentence.split()).rstrip(".")])
    sys.exit(2)


if __name__ == "__main__":
    main()
