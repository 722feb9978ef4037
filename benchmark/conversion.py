"""Converts plain values to typed ones. A value that does not fit gives an error with its place, in plain words."""

import copy
import re
import types
import typing
from typing import Any, get_args, get_origin

import msgspec

from kdbench.refusal import Refusal, nearest

Step = str | int | None  # a key, a position, or a key that msgspec does not name

WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "list": "a list",
    "tuple": "a list",
    "object": "a mapping",
    "dict": "a mapping",
}


class Misfit(Refusal):
    """A value does not fit. ``place`` says where it is, such as ``.temperature`` or ``.seeds[1]``."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place.removeprefix('.')}: {why}" if place else why)
        self.place, self.why = place, why


def convert(values: Any, kind: Any, place: str = "") -> Any:
    """Convert values to this kind. ``place`` is where the values themselves are."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        steps, why = _misfit(values, kind, str(error))
        raise Misfit(place + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps), why) from None


def shown(value: Any) -> str:
    """A value that did not fit, shortened for use in a sentence."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list() | dict():
            noun = "list" if isinstance(value, list) else "mapping"
            return f"a {noun}" if value else f"an empty {noun}"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:80]}…"


def _misfit(values: Any, kind: Any, message: str) -> tuple[list[Step], str]:
    why, _, at = message.partition(" - at `$")
    steps = _named(values, kind, message, _steps(at))
    if unknown := re.search(r"unknown field `(.*)`", why):
        known = [field.encode_name for field in msgspec.structs.fields(_kind(kind, steps))]
        return [*steps, unknown[1]], f"unknown key '{unknown[1]}'{nearest(unknown[1], known)}"
    if missing := re.search(r"missing required field `(.*)`", why):
        return steps, f"the key '{missing[1]}' is missing"
    value = _value(values, steps)
    if why.startswith("Invalid enum value"):
        wanted = _kind(kind, steps)
        if get_origin(wanted) is not typing.Literal:
            return steps, f"must be {' or '.join(_choices(wanted))}, got {shown(value)}"
        return steps, f"unknown value {shown(value)}{nearest(str(value), map(str, get_args(wanted)))}"
    if not why.startswith("Expected "):  # an error raised by a struct about its values
        name, _, demand = why.partition(" ")
        of_one = demand.startswith("must ") and isinstance(value, dict) and name in value
        return ([*steps, name], demand) if of_one else (steps, why)
    expected = why.removeprefix("Expected ").partition(", got")[0].replace(" | null", "").replace(" | ", " or ")
    words = re.sub(r"`[^`]*`", lambda names: re.sub(r"\w+", lambda n: WORDS.get(n[0], n[0]), names[0][1:-1]), expected)
    return steps, f"must be {words.replace('.0', '')}, got {shown(value)}"


def _steps(path: str) -> list[Step]:
    found = re.findall(r"\.([^.\[`]+)|\[(?:(\d+)|\.\.\.)\]", path)
    return [key or (int(position) if position else None) for key, position in found]


def _named(values: Any, kind: Any, message: str, steps: list[Step]) -> list[Step]:
    """The steps with missing keys filled in. The right key gives the same error when it is alone in its mapping."""
    for i, step in enumerate(steps):
        for key in _value(values, steps[:i]) if step is None else ():
            alone = copy.deepcopy(values)
            mapping = _value(alone, steps[:i])
            kept = mapping[key]
            mapping.clear()
            mapping[key] = kept
            try:
                msgspec.convert(alone, kind)
            except msgspec.ValidationError as error:
                if str(error) == message:
                    steps = [*steps[:i], key, *steps[i + 1 :]]
                    break
    return steps


def _value(values: Any, steps: list[Step]) -> Any:
    for step in steps:
        values = values[step]
    return values


def _kind(kind: Any, steps: list[Step]) -> Any:
    """The type that the steps lead to from a struct. The steps given here only pass through fields of structs."""
    for step in steps:
        for field in msgspec.structs.fields(kind):
            if field.encode_name == step:
                kind = field.type
    return kind


def _choices(kind: Any) -> list[str]:
    """The allowed values or types, in plain words."""
    match get_origin(kind):
        case typing.Literal:
            return [repr(choice) for choice in get_args(kind)]
        case typing.Union | types.UnionType:
            return [choice for part in get_args(kind) if part is not types.NoneType for choice in _choices(part)]
    name = getattr(kind, "__origin__", kind).__name__
    return [WORDS.get(name, name)]
