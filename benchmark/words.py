"""Formats numbers, tables and warnings for people."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s" if minute else f"{second} s"


def readable(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def columns(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned columns."""
    if not rows:
        return "none"
    heads = list(rows[0])
    cells = [heads, *([readable(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def markdown_table(table: "DataFrame", align: Iterable[str] | None = None) -> str:
    """A Markdown table of strings. A bar in a value is escaped."""
    safe = table.map(lambda word: word.replace("|", r"\|"))
    return safe.to_markdown(index=False, disable_numparse=True, colalign=align)


def warn(sentences: list[str]) -> None:
    for sentence in sentences:
        print(f"kdbench: {sentence}", file=sys.stderr)
