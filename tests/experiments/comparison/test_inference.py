"""Intervals, tests and power against numbers computed by hand, by scipy's own tests and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from ortho_lightning.experiments.comparison import inference


def test_mean_and_interval_by_hand():
    # 1, 2, 3, 4, 5: mean 3, variance 10 / 4, standard error sqrt(2.5 / 5), t(0.975, 4) = 2.7764451052
    figure = inference.describe([1.0, 2.0, 3.0, 4.0, 5.0], 0.95)
    assert figure.mean == 3.0
    assert figure.std == pytest.approx(math.sqrt(2.5), rel=1e-15)
    assert figure.low == pytest.approx(3 - 2.7764451052 * math.sqrt(0.5), rel=1e-9)
    assert figure.high == pytest.approx(3 + 2.7764451052 * math.sqrt(0.5), rel=1e-9)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        figure = inference.describe(list(rng.normal(70.0, 2.0, size=5)), 0.9)
        inside += figure.low <= 70.0 <= figure.high
    assert abs(inside / 2000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 2000)


def test_spread_interval_by_hand():
    # chi-square with 4 degrees of freedom: 0.4844185571 and 11.1432867819 at 2.5% and 97.5%
    low, high = inference.std_interval(2.0, 5, 0.95)
    assert low == pytest.approx(2 * math.sqrt(4 / 11.1432867819), rel=1e-9)
    assert high == pytest.approx(2 * math.sqrt(4 / 0.4844185571), rel=1e-9)


def pairs(rng, n, scale=1.0, correlation=0.0):
    """Pairs of normal numbers, the first with ``scale`` times the standard deviation of the second."""
    first, second = rng.normal(size=(2, n))
    return scale * (correlation * second + math.sqrt(1 - correlation**2) * first), second


def test_the_interval_of_a_paired_ratio_of_deviations_is_where_its_test_does_not_reject():
    first, second = pairs(np.random.default_rng(3), 9, scale=1.5, correlation=0.7)
    low, high = inference.paired_std_ratio_interval(first, second, 0.95)
    assert low < first.std() / second.std() < high
    for end in (low, high):
        # at an end of the interval, the test of equal deviations after division by it is just significant
        assert inference.paired_std_p(first / end, second) == pytest.approx(0.05)
    back = inference.paired_std_ratio_interval(second, first, 0.95)
    assert back == pytest.approx((1 / high, 1 / low))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_interval_of_a_paired_ratio_of_deviations_covers_as_often_as_it_says(correlation):
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        low, high = inference.paired_std_ratio_interval(*pairs(rng, 5, 2.0, correlation), 0.9)
        inside += low <= 2.0 <= high
    assert abs(inside / 2000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 2000)


def test_pairs_on_a_line_have_no_test_of_their_deviations():
    assert inference.paired_std_p([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) is None


def test_holm_by_hand():
    # sorted 0.005 0.01 0.03 0.04: times 4, 3, 2, 1, never falling; 0.06 is not below 0.05, so there it stops
    corrected, levels = inference.holm([0.01, 0.04, 0.03, 0.005], alpha=0.05)
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    assert inference.holm([], 0.05) == ([], [])
    assert inference.holm([0.6, 0.7], 0.05)[0] == [1.0, 1.0]


def test_power_of_the_detectable_difference_by_simulation():
    n, std, alpha = 6, 1.5, 0.025
    true = inference.detectable_difference(std, n, alpha)
    samples = np.random.default_rng(2).normal(true, std, size=(20000, n))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < alpha
    assert abs(found.mean() - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 20000)


@pytest.mark.parametrize("n", [2, 3, 8, 50])
@pytest.mark.parametrize("alpha", [0.95, 0.05, 0.007, 0.0005])
def test_the_detectable_difference_is_always_a_number(n, alpha):
    assert math.isfinite(inference.detectable_difference(1.0, n, alpha))
