"""The verb that measures speed. It imports inside the function, to keep help fast."""

import sys
from pathlib import Path

import click

from kdbench.benchmark.options import as_json, data, files, grid, load_files, results, say
from kdbench.benchmark.words import warn


@click.command()
@grid(required=True)
@click.option("--again", is_flag=True, help="Measure again what was measured in this environment before.")
@data
@results
@files
@as_json
def throughput(grid: str, again: bool, data: Path, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Measure how fast every method of a grid trains each student on this machine, in a steady state.

    Records and a page of tables go to RESULTS/throughput/ENVIRONMENT/. Cells with a record there are skipped. Cells
    that differ only in seeds are measured once. Teachers need not be trained: random weights are as fast. Run nothing
    else on the machine meanwhile, because it would be measured too.

    The exit code is 1 if a measurement failed. Cells that cannot work are named and left out.

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
