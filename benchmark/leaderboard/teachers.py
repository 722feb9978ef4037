"""Who taught: one that knows no more than its student does by labels alone says little of how to listen."""

from collections.abc import Hashable

import pandas as pd

from kdbench.benchmark.leaderboard.frame import SECTION

Section = tuple[Hashable, ...]


def teachers(cells: pd.DataFrame) -> dict[Section, str]:
    """Of each section that has teachers, what they came to by themselves."""
    known = cells.dropna(subset=["teacher_top1"]).drop_duplicates([*SECTION, "teacher"]).sort_values("teacher")
    alone = cells[cells["method"] == "ce"].groupby(SECTION)["top1"].mean()
    said = {}
    for section, own in known.groupby(SECTION):
        top1 = own["teacher_top1"].tolist()
        weak = sum(value <= alone.get(section, float("-inf")) for value in top1)
        who = "" if len(top1) == 1 else f"{weak} of them " if weak < len(top1) else "all "
        mind = f", {who}no better than the student by labels alone" if weak else ""
        noun = "teacher" if len(top1) == 1 else "teachers"
        said[section] = f"{noun} at {', '.join(f'{value:.2f}' for value in top1)}{mind}"
    return said
