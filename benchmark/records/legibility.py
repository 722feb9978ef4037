"""Records as bytes: which are valid, which need a newer version, and how they are written."""

import re
from typing import TypeVar

import msgspec

from kdbench.benchmark.records.record import FORMAT, Brief, Failure, Record

T = TypeVar("T", Record, Brief, Failure)
S = TypeVar("S", bound=msgspec.Struct)


class Named(msgspec.Struct):
    """The part of a record that names its cell."""

    id: str


class Newer(ValueError):
    """Written by a newer version, not damaged. A run that took it for missing would overwrite it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"it must be read by a newer kdbench: {why}")


def believed(content: bytes, kind: type[T]) -> T:
    try:
        found = decoded(content, kind)
    except ValueError as error:
        if "unknown field" in str(error) or "Invalid enum value" in str(error):
            decoded(content, Named)  # a truncated record is damaged, whatever its fields
            raise Newer(str(error.__cause__)) from None
        raise
    if not isinstance(found, Failure) and found.format > FORMAT:
        raise Newer(f"its format is {found.format}")
    if found.id != found.cell.id:
        raise ValueError(f"its id does not match its cell, which is {found.cell.id}")
    return found


def decoded(content: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def pretty(value: msgspec.Struct) -> bytes:
    """Indented JSON, with each list of numbers on a single line, which makes curves readable. (Strings cannot match:
    line breaks in them are escaped.)"""
    return indented(msgspec.json.encode(value))


def indented(line: bytes) -> bytes:
    text = msgspec.json.format(line, indent=2).decode()
    one_line = re.sub(r"\[\n\s+([^\[\]{}\"]*?)\n\s*\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    return one_line.encode() + b"\n"
