"""The commands ``records`` and ``teacher``. They import what they need when they run."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.options import A_PATH, data, files, grid, ids, load_files, results
from kdbench.benchmark.words import warn


@click.group()
def records() -> None:
    """Exchange records with others, as one file.

    \b
    Examples:
      kdbench records export quickstart --to quickstart.zip
      kdbench records import quickstart.zip --results theirs
    """


@records.command("export")
@grid(required=False)
@click.option("--to", "file", type=A_PATH, required=True, metavar="FILE", help="Archive to write, a zip.")
@click.option("--weights", is_flag=True, help="Include teachers' weights.")
@results
@files
def export_records(grid: str | None, file: Path, weights: bool, results: Path, files: tuple[Path, ...]) -> None:
    """Write all records, or those of a grid, to one archive. The same records give the same bytes.

    \b
    Examples:
      kdbench records export --to all.zip
      kdbench records export quickstart --to quickstart.zip --weights
    """
    from kdbench.benchmark.records import archive
    from kdbench.benchmark.records.store import Store

    only = ids(grid, files)
    store = Store(results)
    print(archive.export(store, file, weights, only))
    warn(store.troubles)


@records.command("import")
@click.argument("file", type=A_PATH)
@click.option("--dry-run", is_flag=True, help="Show what would be imported, without importing it.")
@results
@files
def import_records(file: Path, dry_run: bool, results: Path, files: tuple[Path, ...]) -> None:
    """Add the records of an archive to the results.

    Existing records are never changed: a record of the same cell with another result is a conflict, and is shown.
    Records need no code to be imported; weights of a custom network need --with.

    Exit code 1: something was skipped, because of a conflict, damage, or weights without --with.

    \b
    Examples:
      kdbench records import quickstart.zip --dry-run
      kdbench records import quickstart.zip
    """
    from kdbench.benchmark.records import archive
    from kdbench.benchmark.records.store import Store

    load_files(files)
    store = Store(results, only_reads=dry_run)
    intake = archive.take_in(store, file)
    print(intake.text(dry_run))
    warn([*store.troubles, *intake.damaged, *intake.unloaded])
    sys.exit(int(bool(intake.conflicts or intake.damaged or intake.unloaded)))


@click.group()
def teacher() -> None:
    """Use teachers that others have trained.

    \b
    Examples:
      kdbench teacher import resnet56.pth --network resnet56 --dataset cifar100
    """


@teacher.command("import")
@click.argument("file", type=A_PATH)
@click.option("--network", required=True, help="Network of the weights.")
@click.option("--dataset", required=True, help="Data set that it was trained on.")
@data
@results
@files
def import_teacher(file: Path, network: str, dataset: str, data: Path, results: Path, files: tuple[Path, ...]) -> None:
    """Store a checkpoint as a teacher, and print its accuracy on the test set.

    FILE is a .pth file of a common toolkit, a plain state dict or a .safetensors file. Nothing in it is run as code.

    \b
    Examples:
      kdbench teacher import resnet56.pth --network resnet56 --dataset cifar100
    """
    from kdbench.benchmark.records import imported
    from kdbench.benchmark.records.store import Store

    load_files(files)
    name, record = imported.take(file, network, dataset, Store(results), data)
    print(f"{name}: top-1 {record.result.top1:.2f} on {dataset}")
    print(f"In a grid: 'pairs: {name} -> STUDENT'.")
