"""Boards and pages of whole records, as the leaderboard makes them of what it reads of them."""

import msgspec

from kdbench.benchmark.experiments.record import Brief, Record
from kdbench.benchmark.leaderboard import evidence, pictures
from kdbench.benchmark.leaderboard.album import Picture
from kdbench.benchmark.leaderboard.drawing import saved
from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.page import page
from kdbench.benchmark.leaderboard.table import Board, board


def board_of(records: list[Record]) -> Board:
    return board(frame(msgspec.json.decode(msgspec.json.encode(record), type=Brief) for record in records))


def page_of(records: list[Record], drawn: bool = False) -> str:
    """With one picture, or without: a whole album takes seconds."""
    found = board_of(records)
    figure = pictures.gains(evidence.gains(found.cells, found.series), "seed") if drawn else None
    shown = [Picture("gains", "Gains", "", saved(figure, "svg").decode(), b"", 3.5)] if figure else []
    return page(found, shown, {record.id: record for record in records}, "Leaderboard")
