"""How sure a gain is, over seeds and over pairs. docs/statistics.md explains every number."""

import math

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

LEVEL = 0.95
ENOUGH = 5  # seeds: with fewer, a test on one pair finds only the largest effects
SAMPLE = 3  # pairs: an interval over two has one degree of freedom, and excludes next to nothing
MANY = 1e6  # degrees of freedom, practically infinite
ALL_FLIPS = 13  # pairs up to which all flips of signs are counted
NOISE = 1e-9  # from rounding: gains that scatter by less are equal

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def moderated(std: pd.Series, n: pd.Series, field: list[str], method: list[str]) -> tuple[pd.Series, pd.Series]:
    """Standard deviations and their degrees of freedom.

    The few seeds of a pair say little about the scatter of a method's gains. Each variance is drawn towards those of
    all methods and pairs of its field, more strongly the more alike they are (Smyth 2004). A method that ran on one
    pair only keeps its own variance.
    """
    table = pd.DataFrame({"variance": std.where(std > NOISE, 0) ** 2, "freedom": n.sub(1).clip(lower=0), "ran": n > 0})
    found = pd.concat(_drawn(own, method) for _, own in table.groupby(field)).reindex(std.index)
    return found["variance"] ** 0.5, found["freedom"]


def _drawn(table: pd.DataFrame, method: list[str]) -> pd.DataFrame:
    scatter = table[(table["variance"] > 0) & (table["freedom"] > 0)]  # percentages are coarse, so gains may be equal
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
    """Degrees of freedom and scale of the scaled inverse chi-squared distribution of the variances.

    If the variances differ no more than by chance, these are infinity and the mean variance.
    """
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    surplus = logs.var(ddof=1) - special.polygamma(1, half).mean()
    if surplus <= special.polygamma(1, MANY):
        return np.inf, float(np.average(variance, weights=freedom))
    half = optimize.brentq(lambda half: special.polygamma(1, half) - surplus, 1 / MANY, MANY)
    return 2 * half, float(np.exp(logs.mean() + special.digamma(half) - np.log(half)))


def by_seed(runs: pd.Series) -> pd.Series:
    """The mean over pairs for each seed that all pairs have, from gains by pair and seed."""
    return runs.unstack("seed").dropna(axis=1).mean()


def half_width(std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """Half of the t interval of a mean of n differences; missing if their scatter is unknown."""
    width = stats.t.ppf((1 + LEVEL) / 2, freedom.clip(lower=1)) * std / np.sqrt(n.where(n > 0))
    return pd.Series(width, index=std.index).where(std > NOISE)


def p_values(mean: pd.Series, std: pd.Series, n: pd.Series, freedom: pd.Series) -> pd.Series:
    """p-values of means of n differences; missing with fewer than ENOUGH, or if all are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf((mean / (std / np.sqrt(n))).abs(), freedom.clip(lower=1))
    return pd.Series(p, index=mean.index).where((n >= ENOUGH) & (std > NOISE))


def over_pairs(gains: Floats) -> Floats:
    """The p-value of each row's mean, with one column for each pair (NaN: not run).

    If a method had no effect, each gain could as well have the other sign, so all flips of signs are counted. Above
    ``ALL_FLIPS`` pairs, the test is Wilcoxon's.
    """
    p = np.full(len(gains), np.nan)
    several = np.isfinite(gains).sum(axis=1) > 1
    if not several.any():
        return p
    if gains.shape[1] > ALL_FLIPS:
        p[several] = stats.wilcoxon(gains[several], axis=1, nan_policy="omit").pvalue
    else:  # a 0 has no sign, so it changes nothing
        rows, flips = np.nan_to_num(gains[several]), 2 ** gains.shape[1]
        p[several] = stats.permutation_test(
            (rows,), np.mean, permutation_type="samples", vectorized=True, axis=1, n_resamples=flips
        ).pvalue
    return p


def pairs_needed(tests: int) -> int:
    """Pairs that a test over signs needs to find anything among so many tests: its smallest p is 2 / 2^k."""
    return math.floor(math.log2(2 * max(tests, 1) / (1 - LEVEL))) + 1


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected by Holm, which bounds the chance of any false alarm among all tests."""
    ranked = p.dropna().sort_values(kind="stable")
    stepped = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return stepped.reindex(p.index)


def between_teachers(runs: Floats) -> float:
    """The standard deviation due to the teacher's seed. Rows are teacher seeds, columns are student seeds.

    A two-way analysis of variance keeps effects of the students' seeds out of it.
    """
    teachers, students = runs.shape
    if teachers < 2 or students < 2:  # one run each cannot separate the teacher from chance
        return float("nan")
    of_teachers, of_students = runs.mean(axis=1, keepdims=True), runs.mean(axis=0, keepdims=True)
    rest = (runs - of_teachers - of_students + runs.mean()) ** 2
    noise = rest.sum() / ((teachers - 1) * (students - 1))
    variance = of_teachers.var(ddof=1) - noise / students
    return float(max(variance, 0.0) ** 0.5)
