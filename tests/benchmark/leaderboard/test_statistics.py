"""Intervals and tests, against other implementations and simulated chance."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdbench.benchmark.leaderboard.statistics import (
    between_teachers,
    half_width,
    holm,
    moderated,
    over_pairs,
    p_values,
    prior,
)


def summary(differences: np.ndarray) -> tuple[pd.Series, pd.Series, pd.Series, pd.Series]:
    """Mean, deviation, number and degrees of freedom of each row."""
    count = pd.Series([differences.shape[1]] * len(differences))
    return pd.Series(differences.mean(1)), pd.Series(differences.std(1, ddof=1)), count, count - 1


def test_intervals_and_p_values_are_those_of_a_paired_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, (20, 6))
    mean, std, n, freedom = summary(differences)
    halves = half_width(std, n, freedom)
    for row, half, p in zip(differences, halves, p_values(mean, std, n, freedom), strict=True):
        test = stats.ttest_1samp(row, 0)
        low, high = test.confidence_interval(0.95)
        assert (high - low) / 2 == pytest.approx(half)
        assert test.pvalue == pytest.approx(p)


def by_pair(groups: list[np.ndarray], method: str = "kd") -> tuple[pd.Series, pd.Series]:
    """Deviations and numbers of a method's gains on some pairs."""
    index = pd.MultiIndex.from_product([["digits"], [method], range(len(groups))], names=["dataset", "method", "pair"])
    std = [group.std(ddof=1) if len(group) > 1 else np.nan for group in groups]
    return pd.Series(std, index=index), pd.Series(list(map(len, groups)), index=index)


def drawn(std: pd.Series, n: pd.Series) -> tuple[pd.Series, pd.Series]:
    return moderated(std, n, field=["dataset"], method=["dataset", "method"])


def test_where_pairs_scatter_alike_their_deviation_is_that_of_an_analysis_of_variance() -> None:
    """Three pairs with 3, 5 and 1 seeds, against the mean square within groups of a one-way ANOVA, from SciPy's F."""
    draw = np.random.default_rng(2)
    groups = [place + stats.zscore(draw.normal(0, 1, n), ddof=1) for place, n in ((1, 3), (2, 5))] + [np.array([3.0])]
    groups[0] = 1.2 * groups[0]
    deviation, freedom = drawn(*by_pair(groups))
    overall = np.concatenate(groups).mean()
    between = sum(len(group) * (group.mean() - overall) ** 2 for group in groups) / 2
    assert freedom.tolist() == [6, 6, 6]
    assert (deviation**2).tolist() == pytest.approx([between / stats.f_oneway(*groups).statistic] * 3)


def test_a_pair_that_scatters_unlike_the_others_is_judged_by_its_own_seeds() -> None:
    draw = np.random.default_rng(6)
    std, n = by_pair([draw.normal(0, scale, 20) for scale in (0.01, 1, 100)])
    deviation, freedom = drawn(std, n)
    assert deviation.tolist() == pytest.approx(std.tolist(), rel=0.05)
    assert freedom.between(19, 19.5).all()


def test_what_variances_were_drawn_from_is_found() -> None:
    """10,000 variances with 4 degrees of freedom, around deviations drawn with 6 degrees of freedom around 0.5."""
    draw, many = np.random.default_rng(7), 10_000
    true = 6 * 0.5**2 / draw.chisquare(6, many)
    freedom, variance = prior(true * draw.chisquare(4, many) / 4, np.full(many, 4.0))
    assert freedom == pytest.approx(6, rel=0.1)
    assert variance == pytest.approx(0.25, rel=0.05)


def test_no_method_borrows_more_than_it_has_seeds_and_one_on_a_single_pair_nothing() -> None:
    draw = np.random.default_rng(8)
    tables = [by_pair([draw.normal(0, 1, 5) for _ in range(pairs)], f"of {pairs}") for pairs in (1, 2, 9)]
    std, n = (pd.concat(rows) for rows in zip(*tables, strict=True))
    deviation, freedom = drawn(std, n)
    assert freedom.groupby("method").unique().map(list).to_dict() == {"of 1": [4], "of 2": [8], "of 9": [36]}
    assert deviation.iloc[0] == std.iloc[0]


def test_a_pair_on_which_a_method_has_no_gain_is_no_second_one() -> None:
    """On a pair without the reference, the row has no differences."""
    draw = np.random.default_rng(9)
    std, n = by_pair([draw.normal(0, 1, 5), np.full(5, np.nan)], "lone")
    others = by_pair([draw.normal(0, 1, 5) for _ in range(9)], "others")
    deviation, freedom = drawn(pd.concat([std, others[0]]), pd.concat([n.where(std.notna(), 0), others[1]]))
    assert (deviation.iloc[0], freedom.iloc[0]) == (std.iloc[0], 4)


def test_gains_that_are_equal_on_one_pair_are_judged_by_the_others() -> None:
    """Percentages are coarse, so two seeds may agree by chance."""
    std, n = by_pair([np.array([1.0, 1.0]), np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.6, 1.0])])
    deviation, _ = drawn(std, n)
    assert deviation.iloc[0] == pytest.approx(0.5, abs=0.1)


def test_flipping_all_signs_gives_what_counting_them_gives() -> None:
    gains = np.random.default_rng(3).normal(0.5, 1, (4, 7))
    gains[3, 2] = np.nan  # a method that has not run on a pair
    for row, p in zip(gains, over_pairs(gains), strict=True):
        ran = row[np.isfinite(row)]
        means = [np.mean(ran * signs) for signs in itertools.product((1, -1), repeat=len(ran))]
        assert p == pytest.approx(np.mean(np.abs(means) >= abs(ran.mean()) - 1e-12))


def test_over_many_pairs_it_is_wilcoxons_test() -> None:
    gains = np.random.default_rng(4).normal(0.3, 1, (3, 20))
    assert over_pairs(gains) == pytest.approx([stats.wilcoxon(row, method="exact").pvalue for row in gains])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pairs", [2, 20])
def test_one_pair_and_none_are_not_tested(pairs: int) -> None:
    gains = np.full((3, pairs), np.nan)
    gains[0, 0], gains[1] = 1.0, np.arange(1.0, 1 + pairs)
    assert np.isnan(over_pairs(gains)).tolist() == [True, False, True]
    assert np.isnan(over_pairs(gains[::2])).all()


def test_what_comes_from_the_teacher_is_told_from_what_comes_from_the_student() -> None:
    """First teachers differ by 2 and 4 and students by 10, without noise. Then runs also scatter: over many tables, the
    deviation is the one that was drawn."""
    exact = np.array([[0.0], [2.0], [4.0]]) + np.array([0.0, 10.0, 20.0])
    assert between_teachers(exact) == pytest.approx(2)
    assert between_teachers(np.array([[0.0, 10.0], [0.0, 10.0]])) == 0
    assert np.isnan(between_teachers(exact[:1]))
    assert np.isnan(between_teachers(exact[:, :1])) and np.isnan(between_teachers(exact[:, :0]))
    draw = np.random.default_rng(5)
    tables = draw.normal(0, 0.5, (2000, 6, 1)) + draw.normal(0, 1, (2000, 1, 3)) + draw.normal(0, 0.3, (2000, 6, 3))
    assert np.mean([between_teachers(table) ** 2 for table in tables]) == pytest.approx(0.25, rel=0.05)


def test_holm_adjusts_as_worked_out_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.5 become 0.04, 0.06, max(0.06, 0.06), 0.5. Missing p-values do not count."""
    adjusted = holm(pd.Series([0.03, np.nan, 0.5, 0.01, 0.02]))
    assert adjusted.tolist() == pytest.approx([0.06, np.nan, 0.5, 0.04, 0.06], nan_ok=True)


def test_of_equal_methods_any_is_called_better_or_worse_no_more_often_than_promised() -> None:
    """Each of 2,000 tables has 10 methods. One table in twenty may have a false alarm."""
    draws = np.random.default_rng(1).normal(0, 1, (2000 * 10, 5))
    adjusted = p_values(*summary(draws)).groupby(np.arange(len(draws)) // 10).transform(holm)
    alarms = (adjusted < 0.05).groupby(np.arange(len(draws)) // 10).any().mean()
    assert 0.03 < alarms < 0.065


def test_too_few_seeds_are_not_tested_and_one_has_no_interval() -> None:
    one, nothing = pd.Series([1.0]), pd.Series([np.nan])
    assert p_values(one, one, pd.Series([4]), pd.Series([3])).isna().all()
    assert half_width(nothing, pd.Series([1]), pd.Series([0])).isna().all()


def test_gains_that_are_all_the_same_are_no_evidence() -> None:
    """Percentages are equal only up to rounding."""
    one_image = np.array([325, 327, 330, 329, 341]) * 100 / 360 - np.array([324, 326, 329, 328, 340]) * 100 / 360
    assert 0 < one_image.std() < 1e-12
    mean, std, n, freedom = summary(np.stack([np.zeros(5), one_image]))
    assert p_values(mean, std, n, freedom).isna().all()
    assert half_width(std, n, freedom).isna().all()
    others = [np.array([0.0, 0.5, 1.0, 0.2, 0.9]), np.array([0.0, 0.6, 1.0, 0.3, 0.8])]
    noisy, exact = (drawn(*by_pair([rows, *others]))[0] for rows in (one_image, np.ones(5)))
    assert noisy.to_numpy() == pytest.approx(exact.to_numpy())
