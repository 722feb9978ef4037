"""The verb that measures speed. What it needs is imported inside it: help answers at once."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.experiments.words import warn
from kdbench.benchmark.options import as_json, data, files, grid, load_files, results, say


@click.command()
@grid(required=True)
@click.option("--again", is_flag=True, help="Measure anew what was measured here before.")
@data
@results
@files
@as_json
def throughput(grid: str, again: bool, data: Path, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Measure how fast every method of a grid trains each student, on this machine and in a steady state.

    Records go to RESULTS/throughput/ENVIRONMENT/, with a page of tables beside them; what has a record there is not
    measured again. Cells that differ in their seeds are one. No teacher need be trained: random weights are as fast.
    Leave the machine alone meanwhile: whatever else runs is measured too.

    Exit code 1 says that a measurement failed; a cell that cannot work is named and left out.

    \b
    Examples:
      kdbench throughput throughput
      kdbench throughput my_grid.yaml --again
      kdbench throughput my_grid.yaml --json
    """
    import msgspec

    from kdbench.benchmark.throughput.grid import measure_grid
    from kdbench.benchmark.throughput.table import pages

    load_files(files)
    answer = measure_grid(grid, results, data, again)
    say(
        [msgspec.to_builtins(record) for record in answer.records],
        as_json,
        lambda: "\n".join(pages(answer.records).values()),
    )
    warn(answer.troubles)
    sys.exit(int(answer.failed > 0))
