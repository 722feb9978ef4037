"""The error for a request that cannot be fulfilled, and helpers for its message."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb

LISTED = 60  # the most names in a message
EXTENSION = "kdbench_extension_"  # the prefix of the modules that users' files are loaded as
OWN = "; to use your own, name its file with --with or in a grid's 'files'"


class Refusal(ValueError):
    """A request cannot be fulfilled; the message is one sentence for the user."""


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a message about an unknown name.

    If known names are similar, ignoring case, it is ``; did you mean 'kd'?``. Otherwise it lists the known names,
    unless they are too many, and ends with ``otherwise``.
    """
    names = sorted(known)
    plain = {one.casefold(): one for one in names}
    close = get_close_matches(name.casefold(), plain, n=3, cutoff=0.6)  # below it, words are similar by chance
    if close:
        return "; did you mean " + " or ".join(f"'{plain[match]}'" for match in close) + "?"
    if len(names) > LISTED:
        return f"; 'kdbench list' with a kind, such as networks, shows all names{otherwise}"
    return (f"; known: {', '.join(names)}" if names else "") + otherwise


def in_a_line(error: BaseException) -> str:
    """The beginning of an error's message, without line breaks."""
    return " ".join(str(error).split())[:300]


def in_a_sentence(error: BaseException) -> str:
    """One sentence for an error that a user's code raised, with the line in the user's file if there is one."""
    own = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith(EXTENSION)
    ]
    name, what = type(error).__name__, in_a_line(error)
    if isinstance(error, Refusal):  # a sentence already
        return what
    return (f"{name}: {what}" if what else name) + (own[-1] if own else "")
