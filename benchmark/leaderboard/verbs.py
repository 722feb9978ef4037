"""The verbs ``leaderboard`` and ``quality``. They import inside the functions, to keep help fast."""

import gc
import math
import sys
from pathlib import Path

import click

from kdbench.benchmark.options import A_PATH, as_json, data, files, grid, load_files, results, say
from kdbench.benchmark.words import warn


@click.command()
@grid(required=False)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file differs from what the records give.")
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
    gc.disable()  # with 100,000 rows, collecting takes a second and finds nothing
    try:
        found = publish.publish(results, grid, only_reads=check)
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
    warn([f"{page} is the page; tables and pictures are next to it"])
    say(formats.rows(found.board.series), as_json, lambda: formats.markdown(found.board))


def _drawable(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    if file and file.suffix not in (".png", ".pdf", ".svg"):
        raise click.BadParameter(f"the file's name must end in .png, .pdf or .svg, got '{file}'.")
    return file


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"it must be a number above 1, got {value}.")
    return value


@click.command()
@click.argument("teacher")
@click.option("--dataset", required=True, help="The data set that the teacher was trained on.")
@click.option(
    "--k0", type=click.FloatRange(min=1, min_open=True), show_default="the paper's", callback=_finite,
    help="The entropy in I is measured against log k0.",
)  # fmt: skip
@click.option("--figure", type=A_PATH, metavar="FILE", callback=_drawable, help="Also draw it: .png, .pdf or .svg.")
@data
@results
@files
@as_json
def quality(
    teacher: str,
    dataset: str,
    k0: float | None,
    figure: Path | None,
    data: Path,
    results: Path,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure the knowledge in each layer of a trained teacher: separation, information, efficiency and quality.

    TEACHER is a network with one trained teacher in the results, the id of a teacher's record or the start of that id,
    or NETWORK@DIGEST. feature_only distils the layers with the highest quality. Measurements are cached.

    \b
    Examples:
      kdbench quality resnet56 --dataset cifar100
      kdbench quality resnet56@0123456789ab --dataset cifar100 --figure quality.png
    """
    from kdbench.benchmark.records.store import Store
    from kdbench.benchmark.runs import quality as verb
    from kdbench.benchmark.whole import write
    from kdbench.methods.features.quality import K0

    load_files(files)
    store = Store(results)
    found = verb.measure(teacher, dataset, store, data, k0 or K0)
    if figure:
        from kdbench.benchmark.leaderboard import album  # the plotting libraries take a second to import

        write(figure, album.of_a_teacher(found, figure.suffix[1:]))
    say(found, as_json, lambda: verb.text(found))
    warn(store.troubles)
