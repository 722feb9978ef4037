"""What is said to a user who asked for something that cannot be done."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb

LISTED = 60  # names, at most
EXTENSION = "kdbench_extension_"  # how the modules begin that users' files are loaded as
OWN = "; one of your own comes with its file, by --with or a grid's 'files'"


class Refusal(ValueError):
    """Something that was asked for cannot be done; the message is one sentence for the person who asked."""


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``; did you mean 'kd'?`` where a known name is near, however it is spelt in capitals, else a list of what there
    is, if it can be read, and ``otherwise``."""
    names = sorted(known)
    plain = {one.casefold(): one for one in names}
    close = get_close_matches(name.casefold(), plain, n=3, cutoff=0.6)  # below it, words are alike by chance
    if close:
        return "; did you mean " + " or ".join(f"'{plain[match]}'" for match in close) + "?"
    if len(names) > LISTED:
        return f"; 'kdbench list' tells what there is{otherwise}"
    return (f"; known: {', '.join(names)}" if names else "") + otherwise


def in_a_sentence(error: BaseException) -> str:
    """An error that somebody's code raised, with the line of their file where there is one."""
    own = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith(EXTENSION)
    ]
    return f"{type(error).__name__}: {error}".partition("\n")[0] + (own[-1] if own else "")
