"""The board as Markdown, LaTeX, CSV and JSON: the same tables, the same numbers, no date, no locale."""

import json
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.benchmark.experiments.words import duration, markdown_table
from kdbench.benchmark.leaderboard import statistics
from kdbench.benchmark.leaderboard.frame import SECTION
from kdbench.benchmark.leaderboard.report import chance
from kdbench.benchmark.leaderboard.table import FIELD, Board, too_few
from kdbench.benchmark.leaderboard.teachers import teachers

ABOUT = (
    "Top-1 after the last epoch, mean ± standard deviation over n seeds. Gains are on the same seeds, in points, ± "
    f"half their {statistics.LEVEL:.0%} t interval, which on a pair borrows from the scatter on other pairs of its "
    "data set and recipe, as far as that is alike. ★: other than chance after Holm's correction over all gains of the "
    "table: over pairs by an exact test of signs, on one pair by a t test over "
    f"{statistics.ENOUGH} seeds or more. One pair speaks for no other. Best epoch: a diagnostic, found by looking at "
    "the test set. Costs are of one environment."
)
NONE = "–"
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


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")


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
            few = too_few(table)
            yield Part(
                _title("methods over pairs", *names), [_over_pairs(table)], [*filter(None, [few]), *_correlated(table)]
            )
    if not board.series.empty:
        taught = {section: [f"{said.capitalize()}."] for section, said in teachers(board.cells).items()}
        for names, table in board.series.groupby(SECTION, sort=False):
            setting, dataset, recipe, pair = names
            tables = [_learned(table) if setting == "incremental" else _accuracy(table), _costs(table)]
            notes = [*taught.get(names, []), *_correlated(table), *places(table)]
            yield Part(_title(setting, dataset, pair, recipe), tables, notes)


def _title(*words: Hashable) -> str:
    return " · ".join(str(word) for word in words if word != "compression")


def _over_pairs(table: pd.DataFrame) -> pd.DataFrame:
    words = {
        "source": table["source"],
        "method": table["method"],
        "pairs": table["pairs"].map(str),
        "over ce": _gains(table, "over_ce"),
        "p(ce)": _each(table["over_ce_p"], chance),
        "over kd": _gains(table, "over_kd"),
        "p(kd)": _each(table["over_kd_p"], chance),
        "rank": _each(table["rank"], "{:.1f}".format),
        "time × ce": _each(table["relative_cost"], "{:.2f}".format),
    }
    return _without_empty(words)


def _accuracy(table: pd.DataFrame) -> pd.DataFrame:
    words = {
        "source": table["source"],
        "method": table["method"],
        "n": table["n"].map(str),
        "top-1": _spread(table["top1"], table["std"]),
    }
    if (table["teachers"] > 1).any():  # else all seeds share one teacher
        some = table["runs"].where(table["runs"] < table["n"] * table["teachers"])  # seeds do not have all teachers
        words["teachers"] = table["teachers"].map(str) + _each(some, " ({:.0f} runs)".format).replace(NONE, "")
        if table["std_teachers"].notna().any():
            words["± teachers"] = _each(table["std_teachers"], "{:.2f}".format)
    words |= {
        "over ce": _gains(table, "over_ce"),
        "over kd": _gains(table, "over_kd"),
        "best epoch": _each(table["best"], "{:.2f}".format),
    }
    return pd.DataFrame(words)


def _learned(table: pd.DataFrame) -> pd.DataFrame:
    """Classes arrived task by task."""
    return _without_empty(
        {
            "source": table["source"],
            "method": table["method"],
            "n": table["n"].map(str),
            "average": _each(table["average"], "{:.2f}".format),
            "final": _spread(table["top1"], table["std"]),
            "over ce": _gains(table, "over_ce"),
            "over kd": _gains(table, "over_kd"),
            "forgetting": _each(table["forgetting"], "{:.2f}".format),
            "backward transfer": _each(table["backward"], "{:+z.2f}".format),
        }
    )


def _costs(table: pd.DataFrame) -> pd.DataFrame:
    words = {
        "method": table["method"],
        "images/s": _each(table["images_per_second"], "{:,.0f}".format),
        "time × ce": _each(table["relative_cost"], "{:.2f}".format),
        "remembered": _each(table["remembered_cost"], "{:.2f}".format),
        "training": _each(table["seconds"], duration),
        "memory MB": _each(table["peak_memory_mb"], "{:,.0f}".format),
        "deployed k": _each(table["deployed_parameters"] / 1000, "{:,.1f}".format),
        "thrown away k": _each(table["discarded_parameters"] / 1000, "{:,.1f}".format),
    }
    return _without_empty(words)


def _without_empty(words: dict[str, pd.Series]) -> pd.DataFrame:
    """Without the columns that have nothing to say."""
    return pd.DataFrame({name: word for name, word in words.items() if (word != NONE).any()})


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
    return [*(f"Speeds and memory: measured on {place}." for place in paced), *(f"Training: on {p}." for p in trained)]


def _each(values: pd.Series, word: Callable[[float], str]) -> pd.Series:
    return values.map(lambda value: NONE if pd.isna(value) else word(value))


def _spread(mean: pd.Series, std: pd.Series) -> pd.Series:
    return _each(mean, "{:.2f}".format) + std.map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")


def _gains(table: pd.DataFrame, name: str) -> pd.Series:
    half = table[f"{name}_half"].map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")
    star = table[f"{name}_p"].map(lambda p: " ★" if p < 1 - statistics.LEVEL else "")
    return _each(table[name], "{:+z.2f}".format) + half + star


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(LATEX)).replace("<", "$<$")
