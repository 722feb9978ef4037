"""Numbers and tables, as people read them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s" if minute else f"{second} s"


def markdown_table(table: "DataFrame", align: Iterable[str] | None = None) -> str:
    """Of words; a name with a bar in it does not end its column."""
    safe = table.map(lambda word: word.replace("|", r"\|"))
    return safe.to_markdown(index=False, disable_numparse=True, colalign=align)
