"""How sure a gain is, over seeds and over pairs. What each number means stands in docs/statistics.md."""

import math

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

LEVEL = 0.95
ENOUGH = 5  # seeds, below which a test of one pair finds nothing but the largest effects
MANY = 1e6  # degrees of freedom, as good as infinitely many
ALL_FLIPS = 13  # pairs, up to which every way of flipping signs is looked at
NOISE = 1e-9  # of rounding: gains that scatter by less are equal

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def moderated(std: pd.Series, n: pd.Series, field: list[str], method: list[str]) -> tuple[pd.Series, pd.Series]:
    """Deviations, and their degrees of freedom. A pair's few seeds say little of how far a method's gains scatter: each
    variance is drawn towards those of all methods and pairs of its field, the more so the more alike they are (Smyth
    2004). A method that ran on one pair alone is judged by that."""
    table = pd.DataFrame({"variance": std.where(std > NOISE, 0) ** 2, "freedom": n.sub(1).clip(lower=0), "ran": n > 0})
    found = pd.concat(_drawn(own, method) for _, own in table.groupby(field)).reindex(std.index)
    return found["variance"] ** 0.5, found["freedom"]


def _drawn(table: pd.DataFrame, method: list[str]) -> pd.DataFrame:
    scatter = table[(table["variance"] > 0) & (table["freedom"] > 0)]  # a percentage is coarse: some gains are equal
    of_method = table["freedom"].groupby(method)
    alone = (table["ran"].groupby(method).transform("sum") < 2) | (of_method.transform("sum") == 0)
    if len(scatter) < 2 or alone.all():
        return table.where(table["freedom"] > 0)
    freedom, variance = prior(scatter["variance"].to_numpy(), scatter["freedom"].to_numpy())
    own = table["freedom"] / (table["freedom"] + freedom)
    drawn = pd.DataFrame(
        {
            "variance": variance + own * (table["variance"] - variance),
            "freedom": (table["freedom"] + freedom).clip(upper=of_method.transform("sum")),
        }
    )
    return drawn.mask(alone, table.where(table["freedom"] > 0))


def prior(variance: Floats, freedom: Floats) -> tuple[float, float]:
    """Of the scaled inverse chi-squared distribution that variances seem to come from, the degrees of freedom and the
    scale: infinitely many, and their mean, where they differ no more than chance makes them."""
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    surplus = logs.var(ddof=1) - special.polygamma(1, half).mean()
    if surplus <= special.polygamma(1, MANY):
        return np.inf, float(np.average(variance, weights=freedom))
    half = optimize.brentq(lambda half: special.polygamma(1, half) - surplus, 1 / MANY, MANY)
    return 2 * half, float(np.exp(logs.mean() + special.digamma(half) - np.log(half)))


def by_seed(runs: pd.Series) -> pd.Series:
    """Of gains by pair and seed: of each seed that all pairs have, the mean over them."""
    return runs.unstack("seed").dropna(axis=1).mean()


def half_width(std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """Of the t interval around a mean of n differences; none where nothing tells how they scatter."""
    width = stats.t.ppf((1 + LEVEL) / 2, freedom.clip(lower=1)) * std / np.sqrt(n.where(n > 0))
    return pd.Series(width, index=std.index).where(std > NOISE)


def p_values(mean: pd.Series, std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """That a mean of n differences is as far from 0 by chance; none with fewer than ENOUGH, nor where all are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf((mean / (std / np.sqrt(n))).abs(), freedom.clip(lower=1))
    return pd.Series(p, index=mean.index).where((n >= ENOUGH) & (std > NOISE))


def over_pairs(gains: Floats) -> Floats:
    """The p-value of each row's mean, of a column a pair (NaN: not run). Had the method no effect, each gain could as
    well have the other sign: all ways of flipping signs are counted. With more pairs than that, Wilcoxon's test."""
    p = np.full(len(gains), np.nan)
    several = np.isfinite(gains).sum(axis=1) > 1
    if not several.any():
        return p
    if gains.shape[1] > ALL_FLIPS:
        p[several] = stats.wilcoxon(gains[several], axis=1, nan_policy="omit").pvalue
    else:  # a 0 is a 0 with either sign, and changes nothing
        rows, flips = np.nan_to_num(gains[several]), 2 ** gains.shape[1]
        p[several] = stats.permutation_test(
            (rows,), np.mean, permutation_type="samples", vectorized=True, axis=1, n_resamples=flips
        ).pvalue
    return p


def pairs_needed(tests: int) -> int:
    """For a test of signs to find anything among so many: of k pairs its smallest p-value is 2 / 2^k."""
    return math.floor(math.log2(2 * max(tests, 1) / (1 - LEVEL))) + 1


def holm(p: pd.Series) -> pd.Series:
    """Adjusted for as many tests as there are: the chance that any of them is a false alarm stays below the level."""
    ranked = p.dropna().sort_values(kind="stable")
    stepped = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return stepped.reindex(p.index)


def between_teachers(runs: Floats) -> float:
    """The deviation that comes from the teacher's seed, of a row a teacher seed and a column a student seed: two-way
    analysis of variance, so that what students' seeds have in common is not taken for the teacher's."""
    teachers, students = runs.shape
    if teachers < 2 or students < 2:  # a run each does not tell a teacher from chance
        return float("nan")
    of_teachers, of_students = runs.mean(axis=1, keepdims=True), runs.mean(axis=0, keepdims=True)
    rest = (runs - of_teachers - of_students + runs.mean()) ** 2
    noise = rest.sum() / ((teachers - 1) * (students - 1))
    variance = of_teachers.var(ddof=1) - noise / students
    return float(max(variance, 0.0) ** 0.5)
