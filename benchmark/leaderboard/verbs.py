"""The verb that writes the leaderboard. What it needs is imported inside it."""

import gc
import sys
from pathlib import Path

import click

from kdbench.benchmark.experiments.words import warn
from kdbench.benchmark.options import as_json, files, grid, load_files, results, say


@click.command()
@grid(required=False)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a file is not what the records give.")
@results
@files
@as_json
def leaderboard(grid: str | None, check: bool, results: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Write tables (.md, .csv, .tex, .json), pictures and an HTML page from the records, and print the tables.

    \b
    Examples:
      kdbench leaderboard
      kdbench leaderboard quickstart --results my_results
      kdbench leaderboard quickstart --check
    """
    from kdbench.benchmark.leaderboard import formats, publish

    load_files(files)
    gc.disable()  # of a hundred thousand rows none is garbage, and to look for some takes a second
    try:
        found = publish.publish(results, grid)
    finally:
        gc.enable()
    warn(found.troubles)
    if check:
        if outdated := found.outdated():
            names = ", ".join(str(file) for file in outdated)
            warn([f"not what the records give: {names}; 'kdbench leaderboard{f' {grid}' if grid else ''}' writes them"])
            sys.exit(1)
        print(f"All {len(found.files)} files are what the records give.")
        return
    found.write()
    page = next(file for file in found.files if file.suffix == ".html")
    warn([f"{page} is the page; tables and pictures lie beside it"])
    say(formats.rows(found.board.series), as_json, lambda: formats.markdown(found.board))
