"""How sure a gain is, over seeds and over pairs. What each number means stands in docs/statistics.md."""

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
ENOUGH = 5  # seeds, below which a test of one pair finds nothing but the largest effects
ALL_FLIPS = 13  # pairs, up to which every way of flipping signs is looked at

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def pooled(std: pd.Series, n: pd.Series, by: list[str]) -> tuple[pd.Series, pd.Series]:
    """The deviation that all have in common whose index says the same, and its degrees of freedom: one pair's few seeds
    say next to nothing of how far runs scatter, those of all pairs do."""
    freedom = n.sub(1).clip(lower=0).where(std.notna(), 0)
    squares = (std.fillna(0) ** 2 * freedom).groupby(by).transform("sum")
    total = freedom.groupby(by).transform("sum")
    return (squares / total.where(total > 0)) ** 0.5, total


def half_width(std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """Of the t interval around a mean of n differences; none where nothing tells how they scatter."""
    width = stats.t.ppf((1 + LEVEL) / 2, freedom.clip(lower=1)) * std / np.sqrt(n.where(n > 0))
    return pd.Series(width, index=std.index)


def p_values(mean: pd.Series, std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """That a mean of n differences is as far from 0 by chance; none with fewer than ENOUGH, nor where all are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf((mean / (std / np.sqrt(n))).abs(), freedom.clip(lower=1))
    return pd.Series(p, index=mean.index).where((n >= ENOUGH) & (std > 0))


def over_pairs(gains: Floats) -> Floats:
    """The p-value of each row's mean, of a column a pair (NaN: not run). Had the method no effect, each gain could as
    well have the other sign: all ways of flipping signs are counted. With more pairs than that, Wilcoxon's test."""
    if gains.shape[1] > ALL_FLIPS:
        p = stats.wilcoxon(gains, axis=1, nan_policy="omit").pvalue
    else:  # a 0 is a 0 with either sign, and changes nothing
        rows, flips = np.nan_to_num(gains), 2 ** gains.shape[1]
        p = stats.permutation_test(
            (rows,), np.mean, permutation_type="samples", vectorized=True, axis=1, n_resamples=flips
        ).pvalue
    return np.where(np.isfinite(gains).sum(axis=1) > 1, p, np.nan)


def holm(p: pd.Series) -> pd.Series:
    """Adjusted for as many tests as there are: the chance that any of them is a false alarm stays below the level."""
    ranked = p.dropna().sort_values(kind="stable")
    stepped = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return stepped.reindex(p.index)


def between_teachers(runs: Floats) -> float:
    """The deviation that comes from the teacher's seed, of a row a teacher seed and a column a student seed: two-way
    analysis of variance, so that what students' seeds have in common is not taken for the teacher's."""
    teachers, students = runs.shape
    if teachers < 2:
        return float("nan")
    of_teachers, of_students = runs.mean(axis=1, keepdims=True), runs.mean(axis=0, keepdims=True)
    rest = (runs - of_teachers - of_students + runs.mean()) ** 2
    noise = rest.sum() / ((teachers - 1) * (students - 1)) if students > 1 else 0.0
    variance = of_teachers.var(ddof=1) - noise / students
    return float(max(variance, 0.0) ** 0.5)
