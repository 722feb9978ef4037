"""How often the leaderboard's stars are wrong, how often they find an effect, and how often intervals cover it.

The runs are simulated and go through the functions that make the real tables. These are the figures of
docs/statistics.md:

python -m pytest -m slow tests/benchmark/leaderboard/test_error_rates.py -s
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pytest

from kdbench.benchmark.leaderboard import statistics
from kdbench.benchmark.leaderboard.frame import SECTION
from kdbench.benchmark.leaderboard.table import FIELD, board, series

TABLES, RUN = 200, 0.25  # tables, and the scatter of runs over seeds in points
TAUGHT = ["kd", *(f"other{number}" for number in range(11))]
NOWHERE = dict.fromkeys(
    ["average", "forgetting", "backward", "seconds", "speed", "memory", "teacher_top1"], float("nan")
)
LIKE = NOWHERE | {"deployed": 1, "discarded": 0, "environment": None, "setting": "compression", "dataset": "d"}


def cells(
    effect: float, pairs: int, seeds: int, differs: float = 0.0, scatter: float = 0.0, scatters: Sequence[float] = ()
) -> Iterator[pd.DataFrame]:
    """Simulated tables. A method's effect differs from pair to pair by ``differs`` points.

    The logarithm of the scatter of runs differs by ``scatter``, or ``scatters`` gives the scatter of each pair.
    """
    draw = np.random.default_rng(0)
    names = pd.MultiIndex.from_product([["ce", *TAUGHT], range(pairs), range(seeds)], names=["method", "pair", "seed"])
    rows = names.to_frame(index=False).assign(recipe="r", teacher="t", **LIKE)
    rows["source"] = np.where(rows["method"] == "ce", "labels", "logits")
    rows["pair"] = rows["pair"].map("t → s{}".format)
    for _ in range(TABLES):
        run = np.reshape(scatters, (-1, 1)) if scatters else RUN * np.exp(draw.normal(0, scatter, (pairs, 1)))
        mean = 70 + effect + draw.normal(0, differs, (len(TAUGHT), pairs, 1))
        ce, taught = draw.normal(70, run, (1, pairs, seeds)), draw.normal(mean, run, (len(TAUGHT), pairs, seeds))
        top1 = np.concatenate([ce, taught])
        rows["top1"] = rows["best"] = top1.ravel()
        for column, (reference, own) in {"over ce": (ce, [0]), "over kd": (taught[:1], [1])}.items():
            gain = top1 - reference
            gain[own] = float("nan")
            rows[column] = gain.ravel()
        yield rows


def rates(tables: list[pd.DataFrame], within: list[str], effect: float) -> tuple[float, float, float]:
    """The share of tables with any star, of methods with one over ce, and of intervals that cover the effect."""
    rows = pd.concat(tables, keys=range(len(tables)), names=["draw", "row"]).reset_index("draw")
    stars = rows[["over_ce_p", "over_kd_p"]] < 1 - statistics.LEVEL
    taught = rows["method"] != "ce"
    any_star = stars.any(axis=1).groupby([rows[name] for name in ["draw", *within]]).any()
    covers = (rows["over_ce"] - effect).abs() < rows["over_ce_half"]
    return float(any_star.mean()), float(stars.loc[taught, "over_ce_p"].mean()), float(covers[taught].mean())


@pytest.mark.slow
def test_error_rates_over_pairs_are_those_of_the_page() -> None:
    print("\npairs seeds effect   any star   a method's star   interval covers")
    for pairs, seeds in ((13, 3), (6, 3)):
        for effect in (0.0, 0.25, 0.5):
            tables = [board(runs).methods for runs in cells(effect, pairs, seeds, differs=0.3)]
            any_star, star, covers = rates(tables, FIELD, effect)
            print(f"{pairs:5} {seeds:5} {effect:6} {any_star:10.1%} {star:17.1%} {covers:17.1%}")
            assert effect or any_star < 0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5
            assert covers == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_error_rates_on_a_pair_are_those_of_the_page() -> None:
    """The mean over all pairs. The effect is that on the pair."""
    print("\npairs seeds scatter effect   any star   a method's star   interval covers")
    for pairs, seeds, scatter in ((13, 5, 0.0), (13, 5, 0.35), (13, 5, 0.7), (4, 5, 0.35), (1, 5, 0.0)):
        for effect in (0.0, 0.25, 0.5) if scatter == 0 else (0.0, 0.5):
            tables = [series(runs) for runs in cells(effect, pairs, seeds, scatter=scatter)]
            any_star, star, covers = rates(tables, SECTION, effect)
            print(f"{pairs:5} {seeds:5} {scatter:7} {effect:6} {any_star:10.1%} {star:17.1%} {covers:17.1%}")
            assert effect or any_star < 0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5
            assert covers == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_error_rates_of_narrow_and_of_wide_students_are_those_of_the_page() -> None:
    """Runs that scatter like those of ce on five pairs of the digits, by 1.2 points for narrow students."""
    scatters = (1.2, 1.2, 0.62, 0.41, 0.41)
    tables = [series(runs) for runs in cells(0.0, len(scatters), 5, scatters=scatters)]
    print("\nscatter   any star   interval covers")
    covered = []
    for number, scatter in enumerate(scatters):
        any_star, _, covers = rates([table[table["pair"] == f"t → s{number}"] for table in tables], SECTION, 0.0)
        print(f"{scatter:7} {any_star:10.1%} {covers:17.1%}")
        covered.append(covers)
    assert 0.85 < min(covered[:2]) < 0.95 < min(covered[3:])
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
