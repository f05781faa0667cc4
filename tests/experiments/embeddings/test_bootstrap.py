"""The bootstrap interval of a gain in rank correlation, against a loop of one's own."""

import numpy as np
import pytest
import scipy.stats

from ortho_lightning.experiments.embeddings.bootstrap import difference_interval


def pairs(n=120, seed=0):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, n)
    return scores + random.normal(size=n), scores + 2 * random.normal(size=n), scores


def correlation(values, scores):
    return scipy.stats.spearmanr(values, scores)[0]


def test_it_is_the_interval_of_a_loop_that_draws_pairs_and_ranks_them_anew():
    better, worse, scores = pairs()
    random = np.random.default_rng(1)
    gains = []
    for _ in range(4000):
        drawn = random.integers(0, len(scores), len(scores))
        gains.append(correlation(better[drawn], scores[drawn]) - correlation(worse[drawn], scores[drawn]))
    found = difference_interval(better, worse, scores, 4000, seed=0)
    assert found == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=0.01)
    assert 0 < found.low < correlation(better, scores) - correlation(worse, scores) < found.high


def test_swapping_the_two_swaps_and_negates_the_ends():
    better, worse, scores = pairs()
    found, swapped = (difference_interval(*both, scores, 300, 0) for both in ((better, worse), (worse, better)))
    assert swapped == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_the_order_alone_counts():
    better, worse, scores = pairs()
    found = difference_interval(better, worse, scores, 200, 0)
    assert difference_interval(np.exp(better), worse**3, scores * 10.0, 200, 0) == pytest.approx(found, abs=1e-12)


def test_the_same_vectors_gain_nothing_and_four_times_the_pairs_halve_the_width():
    better, _, scores = pairs()
    assert difference_interval(better, better, scores, 100, 0) == (0, 0)
    narrow, wide = (np.ptp(difference_interval(*pairs(n), 1000, 0)) for n in (800, 200))
    assert narrow == pytest.approx(wide / 2, rel=0.25)


def test_a_constant_has_no_correlation_and_the_seed_decides():
    better, worse, scores = pairs(40)
    assert difference_interval(np.ones(40), np.ones(40), scores, 50, 0) == (0, 0)
    draws = [difference_interval(better, worse, scores, 50, seed) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
