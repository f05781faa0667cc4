"""Bootstrap intervals of the difference between two rank correlations over the same pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
_BATCH = 250  # samples at a time, of which a few arrays are in memory


class Interval(NamedTuple):
    """The two ends of an interval."""

    low: float
    high: float


def difference_interval(
    cosines: ArrayLike, baseline: ArrayLike, scores: ArrayLike, samples: int, seed: int
) -> Interval:
    """Return the percentile bootstrap interval of the gain in Spearman's correlation, from samples of the pairs.

    Every sample draws N pairs with replacement, the same for both correlations, and ranks them anew, so that the
    interval covers what other pairs of the same kind would have given.

    Args:
        cosines: ``(N,)``, of the pairs with the vectors to be judged.
        baseline: ``(N,)``, of the same pairs with the vectors that they are compared with.
        scores: ``(N,)``, similarities of the pairs by people.
        samples: number of bootstrap samples, 1 or more.
        seed: of the samples.

    Returns:
        95% interval of Spearman(cosines, scores) - Spearman(baseline, scores).
    """
    found = stats.bootstrap(
        tuple(np.asarray(values, dtype=np.float64) for values in (cosines, baseline, scores)),
        _gain,
        n_resamples=samples,
        batch=_BATCH,
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",  # also where no sample differs, as after a rotation
        random_state=np.random.default_rng(seed),
    )
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def _gain(cosines: Any, baseline: Any, scores: Any, axis: int = -1) -> Any:
    expected = _standard_ranks(scores, axis)
    return ((_standard_ranks(cosines, axis) - _standard_ranks(baseline, axis)) * expected).sum(axis)


def _standard_ranks(values: Any, axis: int) -> Any:
    """Ranks, ties at their mean, with mean 0 and norm 1; 0 where all are equal."""
    ranks = stats.rankdata(values, axis=axis)
    ranks -= ranks.mean(axis, keepdims=True)
    norms = np.linalg.norm(ranks, axis=axis, keepdims=True)
    return np.divide(ranks, norms, out=np.zeros_like(ranks), where=norms > 0)
