"""The board as Markdown, LaTeX and JSON: the same tables, the same numbers, no date, no locale."""

import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.benchmark.experiments.words import markdown_table
from kdbench.benchmark.leaderboard import statistics
from kdbench.benchmark.leaderboard.columns import COSTS, FAILED, OF_A_SETTING, OVER_PAIRS, WHERE, Column, telling
from kdbench.benchmark.leaderboard.frame import SECTION
from kdbench.benchmark.leaderboard.table import FIELD, Board, too_few
from kdbench.benchmark.leaderboard.teachers import teachers

ABOUT = (
    "Top-1 after the last epoch, mean ± standard deviation over n seeds. Gains are on the same seeds, in points, ± "
    f"half their {statistics.LEVEL:.0%} t interval, which on a pair borrows from the scatter on other pairs of its "
    "data set and recipe, as far as that is alike. ★: other than chance after Holm's correction over all gains of the "
    "table: over pairs by an exact test of signs, on one pair by a t test over "
    f"{statistics.ENOUGH} seeds or more. Over pairs, ± by seed is half of the interval of the mean over the seeds that "
    "all pairs have, with the seed as the unit: the wider one is to be believed. One pair speaks for no other. Best "
    "epoch: a diagnostic, found by looking at the test set. What steps cost is of one environment."
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
    """A title, and tables of words as people read them."""

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
        lines += ["", "## runs that failed", "", markdown_table(_words(board.failed, [*WHERE, *FAILED]))]
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
    """For scripts; null where there is no number."""
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
    """What pairing by seed is worth here is said, not assumed."""
    r = table["correlation"].dropna()
    if r.empty:
        return []
    said = f"{r.iloc[0]:+.2f}" if len(r) == 1 else f"median {r.median():+.2f}, from {r.min():+.2f} to {r.max():+.2f}"
    return [f"Correlation of a method's runs with ce's of the same seeds: {said}."]


def places(table: pd.DataFrame) -> list[str]:
    """Where costs were taken; those of a section are of one place and manner."""
    paced, trained = table["paced_in"].dropna().unique(), table["environment"].dropna().unique()
    if not table["paced_alone"].isin([True]).any():
        return [f"Costs: of cells, beside whatever else ran on {place}." for place in trained]
    ran = [f"Training: of cells, beside whatever else ran on {place}: no measure of a method." for place in trained]
    return [*(f"Speeds and memory: measured on {place}." for place in paced), *ran]


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(LATEX)).replace("<", "$<$")
