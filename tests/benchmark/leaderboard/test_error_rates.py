"""How often the leaderboard's stars are wrong, how often they find what is there, and how often intervals cover it:
simulated tables, through the functions that make the real ones. The figures of docs/statistics.md:

python -m pytest -m slow tests/benchmark/leaderboard/test_error_rates.py -s
"""

import numpy as np
import pandas as pd
import pytest

from kdbench.benchmark.leaderboard import statistics

TABLES, METHODS, RUN = 200, 12, 0.25  # points by which runs of one cell scatter, seed by seed
PAIR = 0.3  # points by which a method's effect differs from pair to pair


def gains(draw: np.random.Generator, effect: float, pairs: int, seeds: int, differs: float) -> np.ndarray:
    """Of methods over ce, on pairs and seeds; ce's own scatter is in the gains of all."""
    mean = effect + draw.normal(0, differs, (METHODS, pairs, 1))
    ce = draw.normal(0, RUN, (1, pairs, seeds))
    return mean + draw.normal(0, RUN, (METHODS, pairs, seeds)) - ce


def over_pairs(effect: float, pairs: int, seeds: int) -> tuple[float, float, float]:
    """The share of tables with any star, of methods with one, and of intervals that cover the effect."""
    draw, any_star, stars, covers = np.random.default_rng(0), 0, 0, 0
    for _ in range(TABLES):
        means = gains(draw, effect, pairs, seeds, PAIR).mean(axis=2)
        starred = statistics.holm(pd.Series(statistics.over_pairs(means))) < 1 - statistics.LEVEL
        std, n = pd.Series(means.std(axis=1, ddof=1)), pd.Series([pairs] * METHODS)
        covers += (np.abs(means.mean(axis=1) - effect) < statistics.half_width(std, n, n - 1)).sum()
        any_star, stars = any_star + starred.any(), stars + starred.sum()
    return any_star / TABLES, stars / TABLES / METHODS, covers / TABLES / METHODS


def on_one_pair(effect: float, pairs: int, seeds: int) -> tuple[float, float, float]:
    """The same of the first pair's section, its deviation pooled over all pairs; the effect is that pair's own."""
    draw, any_star, stars, covers = np.random.default_rng(0), 0, 0, 0
    index = pd.MultiIndex.from_product([range(METHODS), range(pairs)], names=["method", "pair"])
    for _ in range(TABLES):
        found = gains(draw, effect, pairs, seeds, 0)
        mean = pd.Series(found.mean(axis=2).ravel(), index=index)
        n = pd.Series(seeds, index=index)
        std, freedom = statistics.pooled(pd.Series(found.std(axis=2, ddof=1).ravel(), index=index), n, by=["method"])
        half = statistics.half_width(std, n, freedom)
        p = statistics.p_values(mean, std, n, freedom).xs(0, level="pair")
        starred = statistics.holm(p) < 1 - statistics.LEVEL
        covers += ((mean - effect).abs() < half).xs(0, level="pair").sum()
        any_star, stars = any_star + starred.any(), stars + starred.sum()
    return any_star / TABLES, stars / TABLES / METHODS, covers / TABLES / METHODS


@pytest.mark.slow
def test_error_rates_are_those_of_the_page() -> None:
    print(f"\n{'':12} pairs seeds effect   any star   a method's star   interval covers")
    for name, simulate in (("over pairs", over_pairs), ("one pair", on_one_pair)):
        for pairs, seeds in ((13, 3), (6, 3), (13, 5), (1, 5)):
            if (name == "over pairs") == (pairs == 1 or seeds == 5):
                continue
            for effect in (0.0, 0.25, 0.5):
                any_star, star, covers = simulate(effect, pairs, seeds)
                print(f"{name:12} {pairs:5} {seeds:5} {effect:6} {any_star:10.1%} {star:17.1%} {covers:17.1%}")
                assert effect or any_star < 0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5
                assert covers == pytest.approx(0.95, abs=0.015)
