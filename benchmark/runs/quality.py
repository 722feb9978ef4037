"""The command ``quality``: how much knowledge each layer of a trained teacher has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kdbench.benchmark import data
from kdbench.benchmark.records import imported
from kdbench.benchmark.records.record import Brief
from kdbench.benchmark.records.store import Store
from kdbench.benchmark.records.weights import trained
from kdbench.benchmark.training.engine import Engine
from kdbench.benchmark.training.evaluate import shown
from kdbench.benchmark.training.recipe import Recipe
from kdbench.benchmark.words import columns
from kdbench.methods.features.layers import PAIRS, layers
from kdbench.methods.features.quality import Watch, best, qualities
from kdbench.refusal import Refusal, nearest


def measure(name: str, dataset: str, store: Store, data_folder: Path, k0: float) -> dict[str, Any]:
    """S, I, E and Q of every layer, and the layers that feature-only distillation would choose."""
    teacher, record = trained(find(name, dataset, store).cell, store)
    engine, images = Engine.best(), data.load(dataset, data_folder)
    recipe = record.cell.recipe or Recipe(epochs=1)  # only for the order of labels and images
    engine.prepare()
    engine.place(teacher, recipe)
    facts = replace(
        recipe.facts(data.source(dataset).classes, images.train.labels),
        images=partial(shown, images, engine),
        remembered=partial(store.remembered, record),
    )
    with _bar(f"{record.id}: images of {dataset}") as watch:
        found = qualities(teacher, facts, k0=k0, watch=watch)
    chosen = best(found, PAIRS)
    rows = [
        {
            "layer": number,
            "depth": depth,
            "at": str(teacher.form(depth)),
            "S": one.separation,
            "I": one.information,
            "E": one.efficiency,
            "Q": one.q,
            "chosen": number in chosen,
        }
        for number, (depth, one) in enumerate(zip(layers(teacher), found, strict=True))
    ]
    return {"teacher": record.id, "top1": record.result.top1, "k0": k0, "chosen": list(chosen), "layers": rows}


def text(found: dict[str, Any]) -> str:
    rows = [
        row | {key: f"{row[key]:.4f}" for key in "SIEQ"} | {"chosen": "★" if row["chosen"] else ""}
        for row in found["layers"]
    ]
    chosen = ", ".join(map(str, found["chosen"]))
    return "\n".join(
        [
            f"{found['teacher']}: top-1 {found['top1']:.2f}",
            columns(rows),
            f"Highest Q (k0 = {found['k0']:g}): layers {chosen}.",
            f"In a grid: 'feature_only: {{teacher_depths: [{chosen}]}}'.",
        ]
    )


def find(name: str, dataset: str, store: Store) -> Brief:
    """The trained teacher of this name: its network, its id or the start of its id, or NETWORK@DIGEST."""
    data.source(dataset)  # refuses an unknown data set
    asked = imported.cell(dataset, name)
    teachers = [
        record for record in store.briefs() if record.cell.dataset == dataset and store.weights(record.cell).exists()
    ]
    matches = [
        record
        for record in teachers
        if (record.id == asked.id if asked else record.cell.student == name or record.id.startswith(name))
    ]
    if not matches:
        known = {record.cell.student for record in teachers}
        raise Refusal(f"{store.folder} must hold a trained teacher '{name}' of {dataset}{nearest(name, known)}")
    if len(matches) > 1:
        ids = ", ".join(sorted(record.id for record in matches))
        raise Refusal(f"'{name}' must name one teacher of {dataset}, got {len(matches)}: {ids}")
    return matches[0]


@contextmanager
def _bar(about: str) -> Iterator[Watch]:
    """A progress bar, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(about, total=1.0)
        yield lambda share: bars.update(task, completed=share)
