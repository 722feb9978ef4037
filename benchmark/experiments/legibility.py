"""Records as bytes: what is believed of them, what is left to a newer version, and how they are written."""

import re
from typing import TypeVar

import msgspec

from kdbench.benchmark.experiments.record import FORMAT, Brief, Failure, Record

T = TypeVar("T", Record, Brief, Failure)
S = TypeVar("S", bound=msgspec.Struct)


class Named(msgspec.Struct):
    """As much of a record as says whose it is."""

    id: str


class Newer(ValueError):
    """A record of a cell that asks for what only a newer version knows: nothing is wrong with it."""

    def __init__(self, id: str, why: str) -> None:
        super().__init__(f"it is of a newer kdbench: {why}")
        self.id = id


def believed(content: bytes, kind: type[T]) -> T:
    try:
        found = decoded(content, kind)
    except ValueError as error:
        # A field or a word that this version does not know: a cell's id could not be seen to be right.
        if "unknown field" in str(error) or "Invalid enum value" in str(error):
            raise Newer(decoded(content, Named).id, str(error.__cause__)) from None
        raise
    if not isinstance(found, Failure) and found.format > FORMAT:
        raise Newer(found.id, f"its format is {found.format}")
    if found.id != found.cell.id:
        raise ValueError(f"it is not what it says: its cell is {found.cell.id}")
    return found


def decoded(content: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def pretty(value: msgspec.Struct) -> bytes:
    """Indented, but with each list of numbers on a line of its own: curves are read across. (Strings cannot match:
    a line break in them is escaped.)"""
    return indented(msgspec.json.encode(value))


def indented(line: bytes) -> bytes:
    text = msgspec.json.format(line, indent=2).decode()
    one_line = re.sub(r"\[\n\s+([^\[\]{}\"]*?)\n\s*\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    return one_line.encode() + b"\n"
