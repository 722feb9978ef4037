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


def gains(
    draw: np.random.Generator, effect: float, pairs: int, seeds: int, differs: float, scatter: np.ndarray | float = 1.0
) -> np.ndarray:
    """Of methods over ce, on pairs and seeds; ce's own scatter is in the gains of all."""
    mean = effect + draw.normal(0, differs, (METHODS, pairs, 1))
    ce = draw.normal(0, RUN * scatter, (1, pairs, seeds))
    return mean + draw.normal(0, RUN * scatter, (METHODS, pairs, seeds)) - ce


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


def on_one_pair(effect: float, pairs: int, seeds: int, differs: float) -> tuple[float, float, float]:
    """The same of a section, in the mean over all pairs; the effect is each pair's own. How far runs scatter differs
    from pair to pair, by so much in its logarithm."""
    draw, any_star, stars, covers = np.random.default_rng(0), 0, 0, 0
    names = ["field", "method", "pair"]
    index = pd.MultiIndex.from_product([["all"], range(METHODS), range(pairs)], names=names)
    for _ in range(TABLES):
        found = gains(draw, effect, pairs, seeds, 0, scatter=np.exp(draw.normal(0, differs, (pairs, 1))))
        mean, n = pd.Series(found.mean(axis=2).ravel(), index=index), pd.Series(seeds, index=index)
        own = pd.Series(found.std(axis=2, ddof=1).ravel(), index=index)
        std, freedom = statistics.moderated(own, n, field=names[:1], method=names[:2])
        p = statistics.p_values(mean, std, n, freedom).groupby("pair").transform(statistics.holm)
        starred = p < 1 - statistics.LEVEL
        covers += ((mean - effect).abs() < statistics.half_width(std, n, freedom)).sum() / pairs
        any_star, stars = any_star + starred.groupby("pair").any().mean(), stars + starred.sum() / pairs
    return any_star / TABLES, stars / TABLES / METHODS, covers / TABLES / METHODS


@pytest.mark.slow
def test_error_rates_over_pairs_are_those_of_the_page() -> None:
    print("\npairs seeds effect   any star   a method's star   interval covers")
    for pairs, seeds in ((13, 3), (6, 3)):
        for effect in (0.0, 0.25, 0.5):
            any_star, star, covers = over_pairs(effect, pairs, seeds)
            print(f"{pairs:5} {seeds:5} {effect:6} {any_star:10.1%} {star:17.1%} {covers:17.1%}")
            assert effect or any_star < 0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5
            assert covers == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_error_rates_on_a_pair_are_those_of_the_page() -> None:
    print("\npairs seeds scatter effect   any star   a method's star   interval covers")
    for pairs, seeds, differs in ((13, 5, 0.0), (13, 5, 0.35), (13, 5, 0.7), (4, 5, 0.35), (1, 5, 0.0)):
        for effect in (0.0, 0.25, 0.5):
            any_star, star, covers = on_one_pair(effect, pairs, seeds, differs)
            print(f"{pairs:5} {seeds:5} {differs:7} {effect:6} {any_star:10.1%} {star:17.1%} {covers:17.1%}")
            assert effect or any_star < 0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5
            assert covers == pytest.approx(0.95, abs=0.015)
