"""A board of whole records, as the leaderboard makes it of what it reads of them."""

import msgspec

from kdbench.benchmark.experiments.record import Brief, Record
from kdbench.benchmark.leaderboard.frame import frame
from kdbench.benchmark.leaderboard.table import Board, board


def board_of(records: list[Record]) -> Board:
    return board(frame(msgspec.json.decode(msgspec.json.encode(record), type=Brief) for record in records))
