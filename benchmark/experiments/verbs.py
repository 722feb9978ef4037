"""The verbs about records and teachers that are there. What they need is imported inside them."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.experiments.words import warn
from kdbench.benchmark.options import A_PATH, data, files, grid, load_files, results


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

    What is here already stays as it is: a record of the same cell with another result is a conflict, which is shown. A
    record needs no code to be imported; weights of a network of one's own need --with.

    Exit code 1 says that something was left out: in conflict, damaged, or weights without --with.

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
    warn([*store.troubles, *intake.damaged, *intake.unloaded])
    sys.exit(int(bool(intake.conflicts or intake.damaged or intake.unloaded)))


@click.group()
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

    load_files(files)
    name, record = imported.take(file, network, dataset, Store(results), data)
    print(f"{name}: top-1 {record.result.top1:.2f} on {dataset}")
    print(f"In a grid: 'pairs: {name} -> STUDENT'.")
