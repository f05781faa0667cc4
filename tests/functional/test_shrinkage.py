"""Ledoit and Wolf's shrinkage, weights and float32 accumulation against independent computations."""

import numpy as np
import pytest
import torch

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError

Moments = OF.Moments


def vectors(n=300, d=12, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)) @ random.standard_normal((d, d)) + 3 * random.standard_normal(d)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (20, 40), (5000, 3), (3, 2)])
def test_the_shrinkage_is_scikit_learns(n, d):
    covariance = pytest.importorskip("sklearn.covariance")
    x = vectors(n, d)
    expected = covariance.ledoit_wolf_shrinkage(x)
    assert OF.ledoit_wolf(Moments.of(torch.from_numpy(x))) == pytest.approx(expected, abs=1e-8)
    shrunk, _ = covariance.ledoit_wolf(x)
    found = Moments.of(torch.from_numpy(x)).second_moment(1.0, expected)
    np.testing.assert_allclose(found.numpy(), shrunk, rtol=1e-8, atol=1e-10)


def test_it_does_not_depend_on_how_the_vectors_were_divided():
    covariance = pytest.importorskip("sklearn.covariance")
    x = np.concatenate([vectors(400, 8), vectors(900, 8, seed=1) + 20, vectors(1, 8, seed=2)])
    parts = [Moments.of(torch.from_numpy(part)) for part in np.split(x, [1, 300, 301, 800])]
    joined = Moments.empty(8)
    for part in parts:
        joined = joined.merge(part)
    backwards = Moments.empty(8)
    for part in reversed(parts):
        backwards = part.merge(backwards)
    expected = covariance.ledoit_wolf_shrinkage(x)
    for moments in (joined, backwards, Moments.of(torch.from_numpy(x))):
        assert OF.ledoit_wolf(moments) == pytest.approx(expected, abs=1e-10)


def test_equal_variances_are_not_shrunk():
    assert OF.ledoit_wolf(Moments.of(torch.ones(5, 3))) == 0.0


def test_higher_moments_are_the_literal_sums():
    x = torch.from_numpy(vectors(5000, 4))
    y = x - x.mean(0)
    tails = Moments.of(x).tails
    torch.testing.assert_close(tails.cubic, (y.square().sum(1, keepdim=True) * y).sum(0), rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(tails.quartic, y.square().sum(1).square().sum(), rtol=1e-11, atol=0)


def test_weights_count_as_repetitions():
    x = torch.from_numpy(vectors(50, 5))
    repeats = torch.from_numpy(np.random.default_rng(1).integers(0, 4, 50))
    weighted, repeated = Moments.of(x, weights=repeats.double()), Moments.of(x.repeat_interleave(repeats, 0))
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.covariance, repeated.covariance)
    torch.testing.assert_close(weighted.tails.quartic, repeated.tails.quartic)
    assert weighted.total == repeated.count
    assert weighted.count == int((repeats > 0).sum())


def test_only_the_ratios_of_weights_matter():
    x, weights = torch.from_numpy(vectors(50, 5)), torch.rand(50, dtype=torch.float64)
    one, other = Moments.of(x, weights=weights), Moments.of(x, weights=1e-6 * weights)
    torch.testing.assert_close(one.covariance, other.covariance)
    assert OF.ledoit_wolf(one) == pytest.approx(OF.ledoit_wolf(other))
    equal = Moments.of(x, weights=torch.full((50,), 3.0))
    assert equal.effective_count == pytest.approx(50)
    assert OF.ledoit_wolf(equal) == pytest.approx(OF.ledoit_wolf(Moments.of(x)))


def test_weighted_parts_merge():
    x, weights = torch.from_numpy(vectors(7000, 5)), torch.rand(7000, dtype=torch.float64)
    weights[:2100] = 0  # a whole block without weight
    whole = Moments.of(x, weights=weights)
    merged = Moments.of(x[:3000], weights=weights[:3000]).merge(Moments.of(x[3000:], weights=weights[3000:]))
    expected = np.cov(x.numpy(), rowvar=False, bias=True, aweights=weights.numpy())
    for found in (whole, merged):
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-10, atol=1e-12)
        assert found.effective_count == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))


def test_wrong_weights_are_named():
    x = torch.ones(4, 2)
    with pytest.raises(ConfigurationError, match="weight 12 is -1"):
        Moments.of(x, 10, weights=torch.tensor([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(ConfigurationError, match=r"weights \(3,\) for 4 vectors"):
        Moments.of(x, weights=torch.ones(3))


def test_float32_accumulation_is_off_by_1e_6_of_the_standard_deviations():
    x = (torch.randn(20_000, 30) @ torch.randn(30, 30) + 1000).float()
    exact, fast = Moments.of(x), Moments.of(x, accumulation=torch.float32)
    deviations = exact.covariance.diagonal().sqrt()
    error = (fast.covariance - exact.covariance).abs() / torch.outer(deviations, deviations)
    assert error.max() < 1e-6
    torch.testing.assert_close(fast.mean, exact.mean, rtol=0, atol=1e-4)
    # what float32 cannot tell from 0 counts as 0
    flat = (torch.randn(5000, 20, dtype=torch.float64) @ torch.randn(20, 60, dtype=torch.float64)).float()
    moments = Moments.of(flat, accumulation=torch.float32)
    eigenvalues, _ = OF.principal_axes(moments)
    assert OF.numerical_rank(eigenvalues, moments.precision) == 20
    with pytest.raises(ConfigurationError, match=r"accumulation=torch\.float16"):
        Moments.of(flat, accumulation=torch.float16)


def test_a_mean_that_moves_loses_nothing():
    # a broad first block, then many rows far away and close together
    random = torch.Generator().manual_seed(0)
    far = 1e-3 * torch.randn(20_000, 4, generator=random, dtype=torch.float64) + 1e4
    x = torch.cat([1e4 * torch.randn(100, 4, generator=random, dtype=torch.float64), far])
    expected = np.cov(x.numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(Moments.of(x).covariance.numpy(), expected, rtol=1e-11)
    alone = Moments.of(torch.cat([torch.zeros(2048, 4, dtype=torch.float64), far]))
    eigenvalues, _ = OF.principal_axes(alone)
    inner, _ = OF.principal_axes(Moments.of(far))
    torch.testing.assert_close(eigenvalues[-1] * alone.count / 20_000, inner[-1], rtol=0.2, atol=0)
