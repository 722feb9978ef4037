"""The verbs by which records come and go. What they need is imported inside them."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.options import A_PATH, files, grid, load_files, results, warn


@click.group()
def records() -> None:
    """Records that go from one person to another, in one file.

    \b
    Examples:
      kdbench records export quickstart --to quickstart.zip
      kdbench records import quickstart.zip --results theirs
    """


@records.command("export")
@grid(required=False)
@click.option("--to", "file", type=A_PATH, required=True, metavar="FILE", help="The archive to be written, a zip.")
@click.option("--weights", is_flag=True, help="With the weights of teachers.")
@results
@files
def export_records(grid: str | None, file: Path, weights: bool, results: Path, files: tuple[Path, ...]) -> None:
    """Write records, all or those of a grid, into one archive; the same records give the same bytes.

    \b
    Examples:
      kdbench records export --to all.zip
      kdbench records export quickstart --to quickstart.zip --weights
    """
    from kdbench.benchmark.experiments import archive
    from kdbench.benchmark.experiments.grid import load
    from kdbench.benchmark.experiments.store import Store

    load_files(files)
    store = Store(results)
    print(archive.export(store, load(grid) if grid else None, file, weights))
    warn(store.troubles)


@records.command("import")
@click.argument("file", type=A_PATH)
@click.option("--dry-run", is_flag=True, help="Say what would come of it; change nothing.")
@results
@files
def import_records(file: Path, dry_run: bool, results: Path, files: tuple[Path, ...]) -> None:
    """Add the records of an archive to those that are here.

    What is here already stays as it is: a record of the same cell with another result is a conflict, which is shown,
    and the exit code is then 1. A record needs no code to be imported; weights of a network of one's own need --with.

    \b
    Examples:
      kdbench records import quickstart.zip --dry-run
      kdbench records import quickstart.zip
    """
    from kdbench.benchmark.experiments import archive
    from kdbench.benchmark.experiments.store import Store

    load_files(files)
    store = Store(results)
    intake = archive.take_in(store, file, dry_run)
    print(intake.text(dry_run))
    warn([*store.troubles, *intake.damaged])
    sys.exit(int(bool(intake.conflicts)))
