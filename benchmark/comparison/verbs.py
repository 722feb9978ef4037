"""The verb ``compare``. It imports inside the function, to keep help fast."""

from pathlib import Path

import click

from kdbench.benchmark.options import A_PATH, as_json, files, grid, load_files, results, say
from kdbench.benchmark.words import warn


@click.command()
@click.argument("theirs", type=A_PATH)
@grid(required=False)
@results
@files
@as_json
def compare(theirs: Path, grid: str | None, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Compare somebody else's records with ours: do the same cells give the same results?

    THEIRS is a results folder or an archive of records. Nothing is written.

    \b
    Examples:
      kdbench compare theirs.zip
      kdbench compare other_machine/results quickstart --results my_results
    """
    from kdbench.benchmark.comparison import replica
    from kdbench.benchmark.plans.grid import load
    from kdbench.benchmark.records.store import Store

    load_files(files)
    only = {cell.id for cell in load(grid).cells} if grid else None
    store = Store(results, only_reads=True)
    with replica.opened(theirs) as other:
        report = replica.report(store, other, only)
    say(report.rows, as_json, report.markdown)
    warn([*store.troubles, *other.troubles])
