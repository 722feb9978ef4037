"""What is said to a user who asked for something that cannot be done."""

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 60  # names, at most


class Refusal(ValueError):
    """Something that was asked for cannot be done; the message is one sentence for the person who asked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``: did you mean 'kd'?`` where a known name is near, else a list of what there is, if it can be read."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.55)
    if close:
        return "; did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    if len(names) > LISTED:
        return "; 'kdbench list' tells what there is"
    return f"; known: {', '.join(names)}" if names else ""
