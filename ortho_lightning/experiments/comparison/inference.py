"""Intervals, tests and power over a handful of seeds: numbers in, numbers out, every distribution scipy's.

Seeds are taken for independent draws and what they give for roughly normal; nothing here is rounded.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, stats

FEWEST = 3
"""Values that an interval, and a test, need here: two would give one some ten times as wide as their distance."""

# Values that differ by less than this share of their size differ by rounding alone.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and what is known about it.

    Args:
        n: number of values.
        mean: None for no value.
        std: standard deviation (n - 1); None for fewer than two values.
        low: end of Student's t interval of the mean. None for fewer than :data:`FEWEST` values, and where all are
            equal: no deviation was seen to make an interval from, which does not say that there is none.
        high: the other end.
    """

    n: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


def describe(values: Sequence[float], confidence: float, scale: float | None = None) -> Estimate:
    """Return number, mean, standard deviation and interval of the mean.

    Args:
        values: finite numbers, any number of them.
        confidence: of the interval, in (0, 1).
        scale: size of the numbers that the values were computed from, which tells a deviation from rounding; None:
            that of the values.
    """
    n = len(values)
    if n == 0:
        return Estimate(0)
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(n, mean)
    std = statistics.stdev(values)
    size = max(map(abs, values)) if scale is None else scale
    if std <= _ROUNDING * size:
        return Estimate(n, mean, 0.0)
    return Estimate(n, mean, std, *mean_interval(mean, std, n, confidence)) if n >= FEWEST else Estimate(n, mean, std)


def mean_interval(mean: float, std: float, n: int, confidence: float) -> tuple[float, float]:
    """Return Student's t interval of a mean, from the standard deviation of n values."""
    low, high = stats.t.interval(confidence, n - 1, loc=mean, scale=std / math.sqrt(n))
    return float(low), float(high)


def std_interval(std: float, n: int, confidence: float) -> tuple[float, float]:
    r"""Return the chi-square interval of a standard deviation: :math:`s\sqrt{(n-1)/\chi^2_{n-1}}` at both ends."""
    tail = (1 - confidence) / 2
    low, high = (std * math.sqrt((n - 1) / float(stats.chi2.isf(q, n - 1))) for q in (tail, 1 - tail))
    return low, high


def paired_std_ratio_interval(
    first: Sequence[float], second: Sequence[float], confidence: float
) -> tuple[float, float]:
    r"""Return the interval of the ratio of two standard deviations, of the first to the second, from pairs.

    It belongs to the test of Pitman (1939) and Morgan (1939), for pairs from a bivariate normal distribution: with the
    ratio :math:`f` of the variances, the correlation :math:`r` and Student's :math:`t` with :math:`n - 2` degrees of
    freedom, the ends are the roots of :math:`f (K \pm \sqrt{K^2 - 1})`, :math:`K = 1 + 2 (1 - r^2) t^2 / (n - 2)`.

    Args:
        first: 3 or more finite numbers.
        second: their partners, which do not lie on a line with them.
        confidence: of the interval, in (0, 1).
    """
    unexplained = 1 - statistics.correlation(first, second) ** 2
    freedom = len(first) - 2
    t = float(stats.t.isf((1 - confidence) / 2, freedom))
    k = 1 + 2 * unexplained * t**2 / freedom
    ratio, wide = statistics.stdev(first) / statistics.stdev(second), math.sqrt(k + math.sqrt(k**2 - 1))
    return ratio / wide, ratio * wide


def paired_std_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p of the test of Pitman and Morgan that two standard deviations are equal, from pairs.

    It is the test that sums and differences of the pairs are not correlated.

    Args:
        first: 3 or more finite numbers, not all equal.
        second: their partners, not all equal either.

    Returns:
        The p; None for pairs that lie on a line, which leave nothing to judge by.
    """
    if 1 - statistics.correlation(first, second) ** 2 <= _ROUNDING:
        return None
    sums = [one + other for one, other in zip(first, second, strict=True)]
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return float(stats.pearsonr(sums, differences).pvalue)


def paired_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired t test, from the differences of the pairs (2 or more, not all equal)."""
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float], alpha: float) -> tuple[list[float], list[float]]:
    """Return Holm's corrected p values, and the level at which his procedure judges each.

    With the p values from small to large (rank 0, 1, ...) the procedure compares p with ``alpha / (m - rank)`` and
    stops at the first that is not below; those after it are judged at the level where it stopped. An interval of
    confidence ``1 - level`` therefore leaves out zero exactly where the corrected p is below ``alpha``. Such intervals
    go with the decisions; they do not cover the true values all at once with confidence ``1 - alpha``.

    Example:
        >>> holm([0.04, 0.01], alpha=0.05)
        ([0.04, 0.02], [0.05, 0.025])
    """
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    corrected, levels = [0.0] * m, [0.0] * m
    largest, stopped = 0.0, None
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        corrected[i] = largest
        levels[i] = alpha / (m - rank) if stopped is None else stopped
        if largest >= alpha and stopped is None:
            stopped = levels[i]
    return corrected, levels


def detectable_difference(std: float, n: int, alpha: float, power: float = 0.8) -> float:
    """Return the true difference that a two-sided paired t test of level ``alpha`` finds with probability ``power``.

    Args:
        std: standard deviation of the differences, positive; the observed one is taken for the true one.
        n: pairs, 2 or more.
        alpha: level of the test.
        power: probability of a finding.
    """
    threshold = float(stats.t.isf(alpha / 2, n - 1))

    def lacking(noncentrality: float) -> float:
        # the lower tail mirrored: scipy's own has holes of NaN
        found = stats.nct.sf(threshold, n - 1, noncentrality) + stats.nct.sf(threshold, n - 1, -noncentrality)
        return float(found) - power

    if lacking(0.0) >= 0:
        return 0.0
    upper = threshold
    while lacking(upper) < 0:
        upper *= 2
    return float(optimize.brentq(lacking, 0.0, upper)) * std / math.sqrt(n)


def share_interval(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Return the interval in which the share of successes in n independent trials lies, from that of one trial."""
    low, high = stats.binom.interval(confidence, n, share)
    return float(low) / n, float(high) / n
