"""The command. Rooms are imported inside the verb that needs them: ``kdbench --help`` answers at once."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kdbench.benchmark.experiments.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])
A_PATH = click.Path(path_type=Path)


def results(verb: F) -> F:
    where = click.option(
        "--results", type=A_PATH, default="results", envvar="KDBENCH_RESULTS", show_default=True,
        help="The folder in which records are kept.",
    )  # fmt: skip
    return where(verb)


def data(verb: F) -> F:
    where = click.option(
        "--data", type=A_PATH, default="data", envvar="KDBENCH_DATA", show_default=True,
        help="The folder in which data sets lie.",
    )  # fmt: skip
    return where(verb)


def files(verb: F) -> F:
    return click.option(
        "--with", "files", type=A_PATH, multiple=True, metavar="FILE.py",
        help="A Python file that registers methods, networks or data sets of your own; may be given several times.",
    )(verb)  # fmt: skip


def as_json(verb: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="For scripts.")(verb)


def _grid_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kdbench.benchmark.experiments.grid import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def grid(required: bool) -> Callable[[F], F]:
    return click.argument(
        "grid", metavar="GRID" if required else "[GRID]", required=required, shell_complete=_grid_names
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdbench")
def app() -> None:
    """Which knowledge should a small network take from a large one?

    Declare a grid of students, teachers, data sets, methods and seeds; run it; read the leaderboard. GRID is the name
    of a grid that ships, or a YAML file of your own.

    \b
    Examples:
      kdbench list grids                what ships
      kdbench plan quickstart           what a run would do
      kdbench run quickstart            do it; again: nothing is left to do
      kdbench leaderboard quickstart    the table, in Markdown and CSV
    """


@app.command("list")
@click.argument("noun", type=click.Choice(["methods", "networks", "datasets", "recipes", "grids", "sites"]))
@files
@as_json
def list_names(noun: str, files: tuple[Path, ...], as_json: bool) -> None:
    """What there is, with a line about each.

    \b
    Examples:
      kdbench list methods
      kdbench list networks --json
      kdbench list methods --with my_method.py
    """
    from kdbench.benchmark import catalogue

    _load(files)
    if noun == "sites":
        from kdbench.slurm import site

        rows = site.listed()
    else:
        rows = catalogue.listed(noun)
    _print(rows, as_json, lambda: catalogue.columns(rows))


@app.command()
@click.argument("name")
@results
@files
@as_json
def show(name: str, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """All about a method, network, data set, recipe, grid or finished cell.

    \b
    Examples:
      kdbench show kd
      kdbench show cifar-240
      kdbench show resnet8x4
    """
    from kdbench.benchmark import catalogue

    _load(files)
    found = catalogue.described(name, results)
    _print(found, as_json, lambda: catalogue.paragraphs(found))


@app.command()
@grid(required=True)
@results
@files
@as_json
def plan(grid: str, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """What `run` would do: cells finished, running, failed, missing and invalid, and the hours that are left.

    \b
    Examples:
      kdbench plan quickstart
      kdbench plan my_grid.yaml --json
    """
    from kdbench.benchmark.experiments import summary

    made = _plan(grid, results, files)
    _print(summary.of_plan(made), as_json, lambda: summary.plan_text(made))


@app.command()
@grid(required=False)
@click.option("--cell", type=A_PATH, metavar="FILE", help="Run the cell of this record anew, and compare.")
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: one a GPU, or one]")
@click.option("--retry", type=click.Choice(["failed"]), help="Run the failed cells again too.")
@data
@results
@files
def run(
    grid: str | None,
    cell: Path | None,
    workers: int | None,
    retry: str | None,
    data: Path,
    results: Path,
    files: tuple[Path, ...],
) -> None:
    """Run what a grid still lacks on this machine: teachers first, resumable at any moment.

    Exit code 1 says that a cell failed, or that a cell that was run anew has other bits.

    \b
    Examples:
      kdbench run quickstart
      kdbench run my_grid.yaml --workers 2 --retry failed
      kdbench run --cell results/records/CELL.json
    """
    from kdbench.benchmark.experiments import local

    if (grid is None) == (cell is None):
        raise click.UsageError(f"run needs a grid or --cell, got {'neither' if grid is None else 'both'}")
    _load(files)
    if grid is not None:
        sys.exit(local.run_grid(grid, results, data, workers, retry_failed=retry == "failed"))
    elif cell is not None:
        sys.exit(local.run_again(cell, results, data))


@app.command()
@grid(required=True)
@click.option("--site", required=True, help="The cluster: the name of a site that ships, or a YAML file of your own.")
@click.option("--dry-run", is_flag=True, help="Print what sbatch would be told; submit nothing.")
@click.option("--retry", type=click.Choice(["failed"]), help="Submit the failed cells again too.")
@data
@results
@files
def submit(
    grid: str, site: str, dry_run: bool, retry: str | None, data: Path, results: Path, files: tuple[Path, ...]
) -> None:
    """Send what a grid still lacks to a SLURM cluster: teachers first, nothing twice; then end.

    Cells that are preempted, run out of time or lose their node go on where they were. `list sites` has what ships.

    \b
    Examples:
      kdbench submit quickstart --site gpu-partition --dry-run
      kdbench submit my_grid.yaml --site my_cluster.yaml
      kdbench submit my_grid.yaml --site my_cluster.yaml --retry failed
    """
    from kdbench.slurm.submit import submit

    _load(files)
    print(submit(grid, site, results, data, dry_run=dry_run, retry_failed=retry == "failed"))


@app.command()
@grid(required=True)
@click.option("--watch", is_flag=True, help="Say so again every ten seconds, until nothing runs or waits.")
@results
@files
@as_json
def status(grid: str, watch: bool, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """How far a grid is: finished, running with the time left, pending in a queue, lost, failed with the reason.

    \b
    Examples:
      kdbench status quickstart
      kdbench status quickstart --watch
      kdbench status quickstart --json
    """
    from kdbench.benchmark.experiments import summary
    from kdbench.benchmark.experiments.store import Store

    while True:
        made, sent = _plan(grid, results, files), summary.NOWHERE
        if (results / "jobs").exists():
            from kdbench.slurm import watch as cluster

            sent = cluster.sent(made, Store(results))
        if watch:
            click.clear()
        _print(
            summary.of_status(made, results, sent),
            as_json,
            lambda: summary.status_text(made, results, sent),  # noqa: B023
        )
        if not watch or not (made.counts()["running"] or sent.pending):
            return
        time.sleep(10)


@app.command()
@grid(required=True)
@results
@files
def cancel(grid: str, results: Path, files: tuple[Path, ...]) -> None:
    """Take a grid's jobs out of the cluster's queue; what they have done so far is kept.

    \b
    Example:
      kdbench cancel my_grid.yaml
    """
    from kdbench.benchmark.experiments.store import Store
    from kdbench.slurm import watch

    print(watch.cancel(_plan(grid, results, files), Store(results)))


@app.command()
@click.argument("cell")
@results
def logs(cell: str, results: Path) -> None:
    """The end of the log of a submitted cell. CELL is its id, or how its id begins.

    \b
    Example:
      kdbench logs digits-resnet14x2-resnet8x0.25-kd-s0
    """
    from kdbench.benchmark.experiments.store import Store
    from kdbench.slurm import watch

    print(watch.tail(cell, Store(results)))


@app.command()
@grid(required=False)
@results
@files
@as_json
def leaderboard(grid: str | None, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Write leaderboard.md and leaderboard.csv from the records, and print the table.

    \b
    Examples:
      kdbench leaderboard
      kdbench leaderboard quickstart --results my_results
    """
    from kdbench.benchmark.leaderboard import publish

    _load(files)
    board = publish.publish(results, grid)
    _print(board.rows, as_json, lambda: board.text)
    _warn(board.troubles)


@app.group()
def teacher() -> None:
    """Teachers that others have trained.

    \b
    Examples:
      kdbench teacher import resnet56.pth --network resnet56 --dataset cifar100
    """


@teacher.command("import")
@click.argument("file", type=A_PATH)
@click.option("--network", required=True, help="The network that the weights are of.")
@click.option("--dataset", required=True, help="The data set that it was trained on.")
@data
@results
@files
def import_teacher(file: Path, network: str, dataset: str, data: Path, results: Path, files: tuple[Path, ...]) -> None:
    """Store a checkpoint as a teacher, and say how good it is on the test set.

    FILE is a .pth of the field's toolkits, a plain state dict or a .safetensors; nothing in it is run as code.

    \b
    Examples:
      kdbench teacher import resnet56.pth --network resnet56 --dataset cifar100
    """
    from kdbench.benchmark.experiments import imported
    from kdbench.benchmark.experiments.store import Store

    _load(files)
    name, record = imported.take(file, network, dataset, Store(results), data)
    print(f"{name}: top-1 {record.result.top1:.2f} on {dataset}")
    print(f"In a grid: 'pairs: {name} -> STUDENT'.")


def folder(verb: F) -> F:
    where = click.option(
        "--folder", type=A_PATH, default="devcluster", envvar="KDBENCH_DEVCLUSTER", show_default=True,
        help="The folder in which the cluster keeps all that it has.",
    )  # fmt: skip
    return where(verb)


@app.group()
def devcluster() -> None:
    """A private SLURM of two nodes with two fake GPUs each, on this machine: to try a submit, and for tests.

    It needs root and Debian's packages slurm-wlm and munge; it touches no other SLURM, and its jobs do run.

    \b
    Examples:
      kdbench devcluster start
      eval "$(kdbench devcluster env)" && sinfo
      kdbench devcluster stop
    """


@devcluster.command("start")
@click.option("--accounting", is_flag=True, help="With sacct; needs slurmdbd and mariadb-server, too.")
@folder
def start_devcluster(accounting: bool, folder: Path) -> None:
    """Start it, and wait until its nodes take jobs.

    \b
    Examples:
      kdbench devcluster start
      kdbench devcluster start --accounting --folder /var/tmp/slurm
    """
    from kdbench.slurm.devcluster.cluster import DevCluster
    from kdbench.slurm.devcluster.options import Options

    cluster = DevCluster(folder, Options(accounting=accounting))
    cluster.start()
    print(cluster.ask("sinfo"))
    print('For sbatch, squeue and the rest: eval "$(kdbench devcluster env)"')


@devcluster.command("stop")
@folder
def stop_devcluster(folder: Path) -> None:
    """Stop it and all that runs on it; its logs stay.

    \b
    Examples:
      kdbench devcluster stop
      kdbench devcluster stop --folder /var/tmp/slurm
    """
    from kdbench.slurm.devcluster.cluster import DevCluster

    cluster = DevCluster(folder)
    if not cluster.home.exists():
        raise click.UsageError(f"a cluster must have been started in {cluster.folder}, got none")
    cluster.stop()
    print(f"Nothing of it runs any more; its logs are in {cluster.logs}")


@devcluster.command("env")
@folder
def env_of_devcluster(folder: Path) -> None:
    """What a shell must export so that sbatch and the rest meet this cluster.

    \b
    Examples:
      eval "$(kdbench devcluster env)"
      kdbench devcluster env --folder /var/tmp/slurm
    """
    from kdbench.slurm.devcluster.cluster import DevCluster

    print(DevCluster(folder).exports())


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """The script that makes your shell complete verbs, options and the names of grids.

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
    """Bad input ends in one sentence and exit code 2; a traceback is always our mistake."""
    try:
        app(prog_name="kdbench", standalone_mode=False)
    except click.ClickException as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        print("kdbench: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")  # no right to write, no space left, too long a name
    except ValueError as error:
        if type(error).__name__ != "Refusal":  # by name: the class comes with torch, and help must not wait for it
            raise
        _refuse(str(error))


def _plan(grid: str, results: Path, files: tuple[Path, ...]) -> "Plan":
    from kdbench.benchmark.experiments.grid import load
    from kdbench.benchmark.experiments.plan import plan
    from kdbench.benchmark.experiments.store import Store

    _load(files)
    store = Store(results)
    made = plan(load(grid), store)
    _warn(store.troubles)
    return made


def _load(files: tuple[Path, ...]) -> None:
    if files:
        from kdbench.benchmark import extensions

        for file in files:
            extensions.load(file)


def _print(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text())


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        print(f"kdbench: {sentence}", file=sys.stderr)


def _refuse(sentence: str) -> None:
    _warn([" ".join(sentence.split()).rstrip(".")])
    sys.exit(2)


if __name__ == "__main__":
    main()
