"""The board as Markdown, LaTeX and JSON, with the same tables and numbers, and no date or locale."""

import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.benchmark.leaderboard import statistics
from kdbench.benchmark.leaderboard.columns import COSTS, FAILED, OF_A_SETTING, OVER_PAIRS, WHERE, Column, telling
from kdbench.benchmark.leaderboard.frame import SECTION
from kdbench.benchmark.leaderboard.table import FIELD, Board, too_few
from kdbench.benchmark.leaderboard.teachers import teachers
from kdbench.benchmark.words import markdown_table

ABOUT = (
    "Top-1 is measured after the last epoch: mean ± standard deviation over n seeds. Gains are on the same seeds, in "
    f"points, ± half of their {statistics.LEVEL:.0%} t interval. On a pair, this interval also uses the scatter of "
    "other pairs of its data set and recipe, as far as that is alike. ★: p is below "
    f"{1 - statistics.LEVEL:.2f} after Holm's correction over all gains of the table. On one pair, p is that of a t "
    f"test over {statistics.ENOUGH} seeds or more. Over pairs, p is that of an exact test over signs. Over pairs, ± by "
    "seed is half of the interval with the seed as the unit, over the seeds that all pairs have: trust the wider "
    "interval. One pair says nothing about other pairs. The best epoch is a diagnostic, found by looking at the test "
    "set. The costs of a section are from one environment."
)
LATEX = str.maketrans(
    {
        "±": r"$\pm$", "★": r"$\star$", "→": r"$\to$", "×": r"$\times$", "–": "--", "·": r"$\cdot$",
        "_": r"\_", "%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A section: a title, tables of formatted values, and notes."""

    title: str
    tables: list[pd.DataFrame]
    notes: list[str]


def markdown(board: Board) -> str:
    """The methods over pairs, then a section for each data set, recipe and pair."""
    lines = ["# Leaderboard", "", ABOUT]
    for part in parts(board):
        lines += ["", f"## {part.title}"]
        for table in part.tables:
            align = ["left" if name in ("source", "method") else "right" for name in table]
            lines += ["", markdown_table(table, align)]
        for note in part.notes:
            lines += ["", note]
    if not board.failed.empty:
        lines += ["", "## failed runs", "", markdown_table(_words(board.failed, [*WHERE, *FAILED]))]
    return "\n".join(lines) + "\n"


def latex(board: Board) -> str:
    r"""Tables for ``\usepackage{booktabs}``."""
    texts = []
    for part in parts(board):
        for table in part.tables:
            words = table.map(_latex).rename(columns=_latex)
            align = "".join("l" if name in ("source", "method") else "r" for name in table)
            body = words.to_latex(index=False, escape=False, column_format=align, caption=_latex(part.title))
            texts.append(body)
    return "\n".join(texts)


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for scripts; null if there is no number."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=6))
    return found


def as_json(board: Board) -> str:
    said = {"methods": rows(board.methods), "series": rows(board.series)}
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def parts(board: Board) -> Iterator[Part]:
    if not board.methods.empty:
        for names, table in board.methods.groupby(FIELD, sort=False):
            notes = [*filter(None, [too_few(table)]), *_correlated(table)]
            yield Part(_title("methods over pairs", *names), [_words(table, OVER_PAIRS)], notes)
    if not board.series.empty:
        taught = {section: [f"{said.capitalize()}."] for section, said in teachers(board.cells).items()}
        for names, table in board.series.groupby(SECTION, sort=False):
            setting, dataset, recipe, pair = names
            notes = [*taught.get(names, []), *_correlated(table), *places(table)]
            tables = [_words(table, OF_A_SETTING[setting]), _words(table, COSTS)]
            yield Part(_title(setting, dataset, pair, recipe), tables, notes)


def _title(*words: Hashable) -> str:
    return " · ".join(str(word) for word in words if word != "compression")


def _words(table: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    return pd.DataFrame({column.name: column.words(table) for column in telling(columns, table)})


def _correlated(table: pd.DataFrame) -> list[str]:
    """How much pairing by seed gains here, as a note."""
    r = table["correlation"].dropna()
    if r.empty:
        return []
    said = f"{r.iloc[0]:+.2f}" if len(r) == 1 else f"median {r.median():+.2f}, from {r.min():+.2f} to {r.max():+.2f}"
    return [f"Correlation of a method's runs with those of ce on the same seeds: {said}."]


def places(table: pd.DataFrame) -> list[str]:
    """Where the costs of a section were measured, as notes: in one environment, and all in the same way."""
    paced, trained = table["paced_in"].dropna().unique(), table["environment"].dropna().unique()
    if not table["paced_alone"].isin([True]).any():
        return [f"Costs come from cells on {place}, next to whatever else ran there." for place in trained]
    ran = [
        f"Training times come from cells on {place}, next to whatever else ran there: they do not compare methods."
        for place in trained
    ]
    return [*(f"Speed and memory were measured on {place}." for place in paced), *ran]


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(LATEX)).replace("<", "$<$")
