"""The columns of the board's tables, as text for Markdown, LaTeX and the page."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.benchmark.leaderboard.report import chance
from kdbench.benchmark.leaderboard.statistics import LEVEL
from kdbench.benchmark.words import counted, duration

NONE = "–"
WHOLE, TENTHS, HUNDREDTHS, SIGNED = "{:,.0f}".format, "{:.1f}".format, "{:.2f}".format, "{:+z.2f}".format
Aside = Callable[[pd.DataFrame], pd.Series]  # text after each value, computed from other columns


@dataclass(frozen=True)
class Column:
    name: str
    key: str  # of the table's column that it shows
    word: Callable[[Any], str] = str
    about: str = ""
    aside: Aside | None = None
    telling: Callable[[pd.Series], pd.Series] = pd.Series.notna  # which values justify the column

    def words(self, table: pd.DataFrame) -> pd.Series:
        words = table[self.key].map(lambda value: NONE if pd.isna(value) else self.word(value))
        return words + self.aside(table) if self.aside else words


def telling(columns: Iterable[Column], table: pd.DataFrame) -> list[Column]:
    """The columns with something to show."""
    return [column for column in columns if column.telling(table[column.key]).any()]


def _within(key: str) -> Aside:
    return lambda table: table[key].map(lambda value: "" if pd.isna(value) else f" ± {value:.2f}")


def _surely(gain: str, of: str) -> Aside:
    """The interval, the number of seeds or pairs if some have no gain, and the star."""
    half, unit = _within(f"{gain}_half"), "pair" if of == "pairs" else "seed"

    def aside(table: pd.DataFrame) -> pd.Series:
        some = table[f"{gain}_n"].between(1, table[of], inclusive="left")
        few = table[f"{gain}_n"].map(lambda n: f" ({counted(n, unit)})").where(some, "")
        return half(table) + few + table[f"{gain}_p"].map(lambda p: " ★" if p < 1 - LEVEL else "")

    return aside


def _runs(table: pd.DataFrame) -> pd.Series:
    """The number of runs, if not every seed has every teacher."""
    some = table["runs"] < table["n"] * table["teachers"]
    return (" (" + table["runs"].map(str) + " runs)").where(some, "")


def _thousands(count: float) -> str:
    return f"{count / 1000:,.1f}"


def _gain(name: str, of: str = "n") -> Column:
    key = f"over_{name}"
    return Column(f"over {name}", key, SIGNED, "on the same seeds, in points of top-1", _surely(key, of))


def _by_seed(name: str) -> Column:
    about = "half of the interval with the seed as the unit, over the seeds that all pairs have"
    return Column(f"± by seed({name})", f"over_{name}_half_seeds", HUNDREDTHS, about)


def _p(name: str) -> Column:
    return Column(f"p({name})", f"over_{name}_p", chance, "exact test over pairs, Holm-corrected over both p columns")


SOURCE = Column("source", "source", about="source of the knowledge")
METHOD = Column("method", "method")
SEEDS = Column("n", "n", WHOLE, "seeds")
GAINS = [_gain("ce"), _gain("kd")]
TIME = Column(
    "time × ce",
    "relative_cost",
    HUNDREDTHS,
    "time of a step relative to ce, phases before the main one spread over it; from cells: time of a whole training",
)
OVER_PAIRS = [
    SOURCE,
    METHOD,
    Column("pairs", "pairs", WHOLE),
    _gain("ce", "pairs"),
    _by_seed("ce"),
    _p("ce"),
    _gain("kd", "pairs"),
    _by_seed("kd"),
    _p("kd"),
    Column("rank", "rank", TENTHS, "mean over pairs of the rank by top-1; 1 is the best"),
    TIME,
]
ON_A_PAIR = [
    SOURCE,
    METHOD,
    SEEDS,
    Column("top-1", "top1", HUNDREDTHS, "% after the last epoch, mean ± standard deviation over seeds", _within("std")),
    Column("teachers", "teachers", WHOLE, "number of trained teachers", _runs, lambda count: count > 1),
    Column("± teachers", "std_teachers", HUNDREDTHS, "standard deviation due to the teacher's seed"),
    *GAINS,
    Column("best epoch", "best", HUNDREDTHS, "%; a diagnostic, found by looking at the test set"),
]
TASK_BY_TASK = [
    SOURCE,
    METHOD,
    SEEDS,
    Column("average", "average", HUNDREDTHS, "top-1 on the classes seen so far, %, mean over tasks"),
    Column("final", "top1", HUNDREDTHS, "% after the last task, mean ± standard deviation over seeds", _within("std")),
    *GAINS,
    Column("forgetting", "forgetting", HUNDREDTHS, "points lost on older tasks"),
    Column("backward transfer", "backward", SIGNED, "change of older tasks by later ones, points"),
]
OF_A_SETTING: dict[Hashable, list[Column]] = {"compression": ON_A_PAIR, "incremental": TASK_BY_TASK}
COSTS = [
    METHOD,
    Column("images/s", "images_per_second", WHOLE, "during training"),
    TIME,
    Column("remembered", "remembered_cost", HUNDREDTHS, "time × ce with the teacher's answers from memory"),
    Column("training", "seconds", duration, "training time of one seed"),
    Column("memory MB", "peak_memory_mb", WHOLE, "peak during training"),
    Column("deployed k", "deployed_parameters", _thousands, "thousands of parameters of the deployed network"),
    Column("discarded k", "discarded_parameters", _thousands, "thousands of the method's, discarded after training"),
]
OF_A_SEED = [
    Column("seed", "seed", WHOLE),
    Column("top-1", "top1", HUNDREDTHS),
    Column("over ce", "over ce", SIGNED),
    Column("best epoch", "best", HUNDREDTHS),
    Column("images/s", "speed", WHOLE),
]
WHERE = [Column("data set", "dataset"), Column("pair", "pair"), Column("recipe", "recipe")]
FAILED = [METHOD, Column("seed", "seed", WHOLE), Column("error", "error")]
WHERE_SEEDS_DIFFER = [Column("environment", "environment"), Column("teacher", "teacher")]
