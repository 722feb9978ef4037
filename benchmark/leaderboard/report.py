"""Rows as Markdown, CSV and JSON. The output depends on the rows only."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.benchmark.whole import write
from kdbench.benchmark.words import markdown_table

Row = dict[str, Any]
Column = Callable[[Row], str]


@dataclass(frozen=True)
class Report:
    """A table with text around it. People see ``columns`` of a row; scripts see the whole row."""

    name: str
    title: str
    about: str
    rows: list[Row]
    columns: dict[str, Column]
    close: str = ""

    def markdown(self) -> str:
        body = pd.DataFrame([{head: text(row) for head, text in self.columns.items()} for row in self.rows])
        table = markdown_table(body) if self.rows else "There are no rows."
        return "\n\n".join(filter(None, [f"# {self.title}", self.about, table, self.close])) + "\n"

    def csv(self) -> str:
        return csv(pd.DataFrame(self.rows))

    def save(self, results: Path) -> None:
        write(results / f"reproduce-{self.name}.md", self.markdown().encode())
        write(results / f"reproduce-{self.name}.csv", self.csv().encode())


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def plain(row: Any) -> Row:
    """A row for scripts, rounded: the last bits of a mean are noise."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(row).items()}


def spread(mean: float | None, deviation: float | None, sign: str = "") -> str:
    if mean is None:
        return "–"
    return f"{mean:{sign}z.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def chance(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
