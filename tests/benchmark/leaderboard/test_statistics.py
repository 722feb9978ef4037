"""Intervals and tests, against another implementation and against what chance gives."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdbench.benchmark.leaderboard.statistics import half_width, holm, p_values


def summary(differences: np.ndarray) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Of a row an experiment: mean, deviation, number."""
    count = pd.Series([differences.shape[1]] * len(differences))
    return pd.Series(differences.mean(1)), pd.Series(differences.std(1, ddof=1)), count


def test_intervals_and_p_values_are_those_of_a_paired_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, (20, 6))
    mean, std, n = summary(differences)
    for row, half, p in zip(differences, half_width(std, n), p_values(mean, std, n), strict=True):
        test = stats.ttest_1samp(row, 0)
        low, high = test.confidence_interval(0.95)
        assert (high - low) / 2 == pytest.approx(half)
        assert test.pvalue == pytest.approx(p)


def test_holm_adjusts_as_worked_out_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.5 become 0.04, 0.06, max(0.06, 0.06), 0.5; what was not tested does not count."""
    adjusted = holm(pd.Series([0.03, np.nan, 0.5, 0.01, 0.02]))
    assert adjusted.tolist() == pytest.approx([0.06, np.nan, 0.5, 0.04, 0.06], nan_ok=True)


def test_of_equal_methods_any_is_called_better_or_worse_no_more_often_than_promised() -> None:
    """Each of 2,000 tables has 10 methods; a false alarm in one of twenty is allowed."""
    draws = np.random.default_rng(1).normal(0, 1, (2000 * 10, 5))
    adjusted = p_values(*summary(draws)).groupby(np.arange(len(draws)) // 10).transform(holm)
    alarms = (adjusted < 0.05).groupby(np.arange(len(draws)) // 10).any().mean()
    assert 0.03 < alarms < 0.065


def test_too_few_seeds_are_not_tested_and_one_has_no_interval() -> None:
    one = pd.Series([1.0])
    assert p_values(one, one, pd.Series([4])).isna().all()
    assert half_width(pd.Series([np.nan]), pd.Series([1])).isna().all()


def test_gains_that_are_all_the_same_have_no_doubt_and_none_at_all_no_test() -> None:
    gains, same, n = pd.Series([1.0, 0.0]), pd.Series([0.0, 0.0]), pd.Series([5, 5])
    assert p_values(gains, same, n).tolist() == pytest.approx([0.0, np.nan], nan_ok=True)
