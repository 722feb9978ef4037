"""The commands for clusters. They import what they need when they run, which keeps help fast."""

from pathlib import Path
from typing import Any

import click

from kdbench.benchmark.options import A_PATH, F, data, files, grid, load_files, planned, results, retry, settings


def folder(verb: F) -> F:
    where = click.option(
        "--folder", type=A_PATH, default="devcluster", envvar="KDBENCH_DEVCLUSTER", show_default=True, show_envvar=True,
        help="Folder with all files of the cluster.",
    )  # fmt: skip
    return where(verb)


@click.command()
@grid(required=True)
@click.option("--site", required=True, help="The cluster: the name of a shipped site, or your own YAML file.")
@click.option("--dry-run", is_flag=True, help="Print the scripts for sbatch; submit nothing.")
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
    """Submit the missing cells to a SLURM cluster.

    Submits teachers first and nothing twice, and exits.
    Cells that are preempted, run out of time or lose their node resume where they were. `list sites` shows the shipped
    sites.

    \b
    Examples:
      kdbench submit quickstart --site gpu-partition --results mine --dry-run
      kdbench submit my_grid.yaml --site my_cluster.yaml
      kdbench submit my_grid.yaml --site my_cluster.yaml --retry failed
    """
    from kdbench.benchmark.plans.grid import load
    from kdbench.slurm.submit import submit

    load_files(files)
    how = {"dry_run": dry_run, "retry": retry} | settings
    print(submit(load(grid), site, results, data, **how))


@click.command()
@grid(required=True)
@results
@files
def cancel(grid: str, results: Path, files: tuple[Path, ...]) -> None:
    """Cancel a grid's jobs.

    Cancels all jobs that have cells of the grid. Their progress is kept.

    \b
    Examples:
      kdbench cancel my_grid.yaml
    """
    from kdbench.benchmark.records.store import Store
    from kdbench.slurm import watch

    print(watch.cancel(planned(grid, results, files), Store(results)))


@click.command()
@click.argument("cell")
@results
def logs(cell: str, results: Path) -> None:
    """Show the end of the log of a submitted cell. CELL is its id, or the start of its id or of its digest.

    \b
    Examples:
      kdbench logs digits-resnet14x2-resnet8x0.25-kd-s0
    """
    from kdbench.benchmark.records.store import Store
    from kdbench.slurm import watch

    print(watch.tail(cell, Store(results)))


@click.group()
def devcluster() -> None:
    """Run a private SLURM on this machine.

    It has two nodes with two fake GPUs each, to try `submit` and for tests. It needs root and Debian's packages
    slurm-wlm and munge. It affects no other SLURM. Its jobs do run.

    \b
    Examples:
      kdbench devcluster start
      eval "$(kdbench devcluster env)" && sinfo
      kdbench devcluster stop
    """


@devcluster.command("start")
@click.option("--accounting", is_flag=True, help="Enable sacct; needs slurmdbd and mariadb-server, too.")
@folder
def start_devcluster(accounting: bool, folder: Path) -> None:
    """Start the cluster, and wait until its nodes accept jobs.

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
    """Stop the cluster and all its jobs. Its logs are kept.

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
    print(f"The cluster has stopped; its logs are in {cluster.logs}")


@devcluster.command("env")
@folder
def env_of_devcluster(folder: Path) -> None:
    """Print what a shell must export for sbatch, squeue and the rest to use this cluster.

    \b
    Examples:
      eval "$(kdbench devcluster env)"
      kdbench devcluster env --folder /var/tmp/slurm
    """
    from kdbench.slurm.devcluster.cluster import DevCluster

    print(DevCluster(folder).exports())
