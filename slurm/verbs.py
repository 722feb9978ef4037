"""The verbs that speak to a cluster. What they need is imported inside them: help answers at once."""

from pathlib import Path
from typing import Any

import click

from kdbench.benchmark.options import A_PATH, F, data, files, grid, load_files, planned, results, retry, settings


def folder(verb: F) -> F:
    where = click.option(
        "--folder", type=A_PATH, default="devcluster", envvar="KDBENCH_DEVCLUSTER", show_default=True, show_envvar=True,
        help="The folder in which the cluster keeps all that it has.",
    )  # fmt: skip
    return where(verb)


@click.command()
@grid(required=True)
@click.option("--site", required=True, help="The cluster: the name of a site that ships, or a YAML file of your own.")
@click.option("--dry-run", is_flag=True, help="Print what sbatch would be told; submit nothing.")
@retry
@settings
@data
@results
@files
def submit(
    grid: str,
    site: str,
    dry_run: bool,
    retry: str | None,
    settings: dict[str, Any],
    data: Path,
    results: Path,
    files: tuple[Path, ...],
) -> None:
    """Send what a grid still lacks to a SLURM cluster: teachers first, nothing twice; then end.

    Cells that are preempted, run out of time or lose their node go on where they were. `list sites` has what ships.

    \b
    Examples:
      kdbench submit quickstart --site gpu-partition --dry-run
      kdbench submit my_grid.yaml --site my_cluster.yaml
      kdbench submit my_grid.yaml --site my_cluster.yaml --retry failed
    """
    from kdbench.benchmark.experiments.grid import load
    from kdbench.slurm.submit import submit

    load_files(files)
    how = {"dry_run": dry_run, "retry": retry} | settings
    print(submit(load(grid), site, results, data, **how))


@click.command()
@grid(required=True)
@results
@files
def cancel(grid: str, results: Path, files: tuple[Path, ...]) -> None:
    """Take the jobs that have cells of a grid out of the cluster's queue; what they have done so far is kept.

    \b
    Examples:
      kdbench cancel my_grid.yaml
    """
    from kdbench.benchmark.experiments.store import Store
    from kdbench.slurm import watch

    print(watch.cancel(planned(grid, results, files), Store(results)))


@click.command()
@click.argument("cell")
@results
def logs(cell: str, results: Path) -> None:
    """The end of the log of a submitted cell. CELL is its id, or how its id begins.

    \b
    Examples:
      kdbench logs digits-resnet14x2-resnet8x0.25-kd-s0
    """
    from kdbench.benchmark.experiments.store import Store
    from kdbench.slurm import watch

    print(watch.tail(cell, Store(results)))


@click.group()
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
