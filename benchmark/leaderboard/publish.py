"""The verb ``leaderboard``: from the records in a folder to the files beside them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.benchmark.experiments.grid import load
from kdbench.benchmark.experiments.store import Store, write
from kdbench.benchmark.leaderboard.table import csv, leaderboard, markdown
from kdbench.methods.refusal import Refusal


@dataclass(frozen=True)
class Board:
    text: str
    rows: list[dict[str, Any]]
    troubles: list[str]


def publish(results: Path, grid: str | None) -> Board:
    """Write leaderboard.md and .csv; a grid's name narrows them to its cells, and goes into the files' names."""
    store = Store(results)
    records = store.records()
    if grid is not None:
        declared = load(grid)
        records = {cell.id: records[cell.id] for cell in declared.cells if cell.id in records}
    if not records:
        raise Refusal(f"{results} must hold records{f' of {grid}' if grid else ''}: run a grid first")
    table = leaderboard(records.values())
    stem = f"leaderboard-{declared.name}" if grid is not None else "leaderboard"
    write(results / f"{stem}.md", markdown(table).encode())
    write(results / f"{stem}.csv", csv(table).encode())
    rows = json.loads(table.to_json(orient="records"))
    return Board(markdown(table), rows, store.troubles)
