"""The verb that holds what was published against the records. What it needs is imported inside it."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.options import as_json, data, files, load_files, results, say, warn

OTHERS = LIST, CLAIMS, INCREMENTAL = "list", "claims", "incremental"  # names besides the papers'


def _names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from kdbench.benchmark.leaderboard.published import papers

    return [name for name in [*OTHERS, *papers()] if name.startswith(incomplete)]


@click.command()
@click.argument("name", shell_complete=_names)
@click.option("--local", is_flag=True, help="First run, on this machine, the cells of the table that are missing.")
@click.option("--site", help="Submit them to this cluster instead; then end.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds to run.  [default: the grid's]")
@data
@results
@files
@as_json
def reproduce(
    name: str,
    local: bool,
    site: str | None,
    seeds: int | None,
    data: Path,
    results: Path,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """A paper's table, theirs beside ours, with a verdict; written to reproduce-NAME.md and .csv in the results.

    NAME is a table's, or `list`: which there are; `claims`: what papers say without a number, tested by the records;
    `incremental`: what was published of classes that arrive task by task.

    \b
    Examples:
      kdbench reproduce list
      kdbench reproduce crd
      kdbench reproduce dkd --local --seeds 1
      kdbench reproduce crd --site my_cluster.yaml --seeds 3
      kdbench reproduce claims --json
    """
    from kdbench.benchmark.experiments.store import Store
    from kdbench.benchmark.leaderboard import claims, incremental, reproduce
    from kdbench.benchmark.leaderboard.published import paper

    load_files(files)
    found = None if name in OTHERS else paper(name, *OTHERS)
    if found is None and (local or site or seeds):
        raise click.UsageError(f"--local, --site and --seeds are for a paper's table, got '{name}'")
    if as_json and (local or site):
        raise click.UsageError("--json shows a table: it goes neither with --local nor with --site")
    if local and site:
        raise click.UsageError("a table is run either with --local or with --site, got both")
    if seeds and not (local or site):
        raise click.UsageError("--seeds says how many are run: it goes with --local or --site, got neither")

    failed = 0
    if found and site:
        from kdbench.slurm.submit import submit

        print(submit(reproduce.cells_of(name, found, seeds), site, results, data, dry_run=False, retry_failed=False))
        return
    if found and local:
        from kdbench.benchmark.experiments.local import run_grid

        failed = run_grid(reproduce.cells_of(name, found, seeds), results, data)

    store = Store(results)
    if name == LIST:
        rows = reproduce.tables(store.outlines())
        say(rows, as_json, lambda: reproduce.tables_text(rows))
    else:
        if found:
            report = reproduce.report(name, found, store.briefs())
        else:
            report = {CLAIMS: claims, INCREMENTAL: incremental}[name].report(store.briefs())
        report.save(results)
        say(report.rows, as_json, report.markdown)
    warn(store.troubles)
    sys.exit(failed)
