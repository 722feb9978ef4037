"""The accuracy of teachers: one that is no better than its student on labels only says little about methods."""

from collections.abc import Hashable

import pandas as pd

from kdbench.benchmark.leaderboard.frame import SECTION

Section = tuple[Hashable, ...]


def teachers(cells: pd.DataFrame) -> dict[Section, str]:
    """The top-1 of the teachers of each section that has some, as text."""
    known = cells.dropna(subset=["teacher_top1"]).drop_duplicates([*SECTION, "teacher"]).sort_values("teacher")
    alone = cells[cells["method"] == "ce"].groupby(SECTION)["top1"].mean()
    said = {}
    for section, own in known.groupby(SECTION):
        top1 = own["teacher_top1"].tolist()
        weak = sum(value <= alone.get(section, float("-inf")) for value in top1)
        who = "" if len(top1) == 1 else f"{weak} of them " if weak < len(top1) else "all "
        mind = f", {who}no better than the student trained on labels only" if weak else ""
        said[section] = f"teacher top-1: {', '.join(f'{value:.2f}' for value in top1)}{mind}"
    return said
