"""Rows as Markdown, CSV and JSON; what is written is a deterministic function of the rows."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.benchmark.experiments.words import markdown_table
from kdbench.benchmark.whole import write

Row = dict[str, Any]
Column = Callable[[Row], str]


@dataclass(frozen=True)
class Report:
    """``columns`` is what people see of a row; scripts see all of it."""

    name: str
    title: str
    about: str
    rows: list[Row]
    columns: dict[str, Column]
    close: str = ""

    def markdown(self) -> str:
        body = pd.DataFrame([{head: text(row) for head, text in self.columns.items()} for row in self.rows])
        table = markdown_table(body) if self.rows else "Nothing is known of it."
        return "\n\n".join(filter(None, [f"# {self.title}", self.about, table, self.close])) + "\n"

    def csv(self) -> str:
        return csv(pd.DataFrame(self.rows))

    def save(self, results: Path) -> None:
        write(results / f"reproduce-{self.name}.md", self.markdown().encode())
        write(results / f"reproduce-{self.name}.csv", self.csv().encode())


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def plain(row: Any) -> Row:
    """A row for scripts: the noise in the last bits of a mean is no news."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(row).items()}


def spread(mean: float | None, deviation: float | None, sign: str = "") -> str:
    if mean is None:
        return "–"
    return f"{mean:{sign}z.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def chance(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
