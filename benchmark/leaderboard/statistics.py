"""How sure a gain is: intervals and tests over seeds, by Student's t."""

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
ENOUGH = 5  # seeds, below which a test of one pair finds nothing but the largest effects


def half_width(std: pd.Series, n: pd.Series) -> pd.Series:
    """Of the interval around a mean of n differences; none where there is one difference alone."""
    return stats.t.ppf((1 + LEVEL) / 2, (n - 1).clip(lower=1)) * std / np.sqrt(n)


def p_values(mean: pd.Series, std: pd.Series, n: pd.Series) -> pd.Series:
    """That a mean of n differences is as far from 0 by chance; none with fewer than ENOUGH."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf((mean / (std / np.sqrt(n))).abs(), (n - 1).clip(lower=1))
    return pd.Series(p, index=mean.index).where((n >= ENOUGH) & ((std > 0) | (mean != 0)))


def holm(p: pd.Series) -> pd.Series:
    """Adjusted for as many tests as there are: the chance that any of them is a false alarm stays below the level."""
    ranked = p.dropna().sort_values(kind="stable")
    stepped = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return stepped.reindex(p.index)
