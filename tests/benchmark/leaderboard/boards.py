"""Boards and pages made from whole records, through the parts that the leaderboard reads."""

import re
from typing import Any

import msgspec

from kdbench.benchmark.leaderboard import evidence, pictures
from kdbench.benchmark.leaderboard.album import Picture
from kdbench.benchmark.leaderboard.drawing import saved
from kdbench.benchmark.leaderboard.formats import markdown
from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.page import page
from kdbench.benchmark.leaderboard.table import Board, board
from kdbench.benchmark.records.record import Brief, Record

PAIR = "big → resnet8x0.25"  # of series without further settings


def board_of(records: list[Record]) -> Board:
    return board(frame(msgspec.json.decode(msgspec.json.encode(record), type=Brief) for record in records))


def page_of(records: list[Record], drawn: bool = False) -> str:
    """The page with one picture or none, because a whole album takes seconds."""
    found = board_of(records)
    figure = pictures.gains(evidence.gains(found.cells, found.series), "seed") if drawn else None
    shown = [Picture("gains", "Gains", "", saved(figure, "svg").decode(), b"", 3.5)] if figure else []
    return page(found, shown, {record.id: record for record in records}, "Leaderboard")


def text(records: list[Record]) -> str:
    """The Markdown, with runs of spaces reduced to one."""
    return re.sub(" +", " ", markdown(board_of(records)))


def rows(records: list[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by pair and method, with ``None`` for missing values."""
    table = board_of(records).series.astype(object)
    found = table.where(table.notna(), None).to_dict(orient="records")
    named = {(row["pair"], row["method"]): row for row in found}
    assert len(named) == len(found)
    return named
