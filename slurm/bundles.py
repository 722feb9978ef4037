"""Decides which cells share a job, and how many minutes the job asks for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.benchmark.plans.plan import Entry
from kdbench.benchmark.records.cell import Cell
from kdbench.slurm.site import Site

MARGIN = 1.5  # machines differ, and a job that is slightly too short needs a second start
START = 5  # minutes in which Python reads its libraries and data from a busy disk


@dataclass(frozen=True)
class Bundle:
    """The cells of one job, one after the other."""

    cells: tuple[Cell, ...]
    minutes: int

    @property
    def world(self) -> int:
        return self.cells[0].world


def bundles(entries: Sequence[Entry], site: Site) -> list[Bundle]:
    """The jobs, in the plan's order. A cell of unmeasured length gets its own job with the longest time. A cell that
    several processes train also gets its own job: if one of the processes is lost, all are."""
    jobs: list[Bundle] = []
    held: list[Entry] = []
    for entry in entries:
        if entry.seconds is None:
            jobs.append(Bundle((entry.cell,), site.longest))
            continue
        if entry.cell.world > 1:
            jobs.append(_bundle([entry], site))
            continue
        held.append(entry)
        if _seconds(held) >= 60 * site.worthwhile:
            jobs.append(_bundle(held, site))
            held = []
    return [*jobs, _bundle(held, site)] if held else jobs


def _bundle(entries: Sequence[Entry], site: Site) -> Bundle:
    wanted = math.ceil(_seconds(entries) / 60 * MARGIN) + START
    return Bundle(tuple(entry.cell for entry in entries), min(wanted, site.longest))


def _seconds(entries: Sequence[Entry]) -> float:
    return sum(entry.seconds or 0.0 for entry in entries)
