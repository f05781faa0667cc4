import pytest
import scipy.stats
import torch

from ortho_lightning import functional as OF


def pairs(n, d, seed=0):
    x = torch.randn(2 * n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    return x[:n], x[n:], OF.Moments.of(x)


def test_all_k_at_once_equal_a_transform_for_each():
    a, b, moments = pairs(30, 7)
    for beta in (0.0, 0.4, 1.0):
        gammas = [0.0, 0.5, 1.0]
        for gamma, found in zip(gammas, OF.whitened_cosines(a, b, moments, beta, gammas, range(1, 8)), strict=True):
            sigma = moments.second_moment(beta)
            eigenvalues, axes = torch.linalg.eigh(sigma)
            projection = (axes * eigenvalues ** (-gamma / 2)).flip(1)
            for k in range(1, 8):
                p, q = ((x - beta * moments.mean) @ projection[:, :k] for x in (a, b))
                expected = (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))
                torch.testing.assert_close(found[k - 1], expected, rtol=1e-9, atol=1e-11)


def test_one_component_gives_plus_or_minus_one_exactly():
    a, b, moments = pairs(500, 5)
    for cosines in OF.whitened_cosines(a, b, moments, 0.3, [0.0, 0.7, 1.0], [1]):
        assert set(cosines.flatten().tolist()) == {-1.0, 1.0}


def test_a_zero_vector_has_cosine_zero():
    a, b, moments = pairs(4, 3)
    a[1] = 0
    (cosines,) = OF.whitened_cosines(a, b, moments, 0.0, [0.0], [1, 3])
    assert cosines[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_is_scipys_ties_and_all(levels):
    values = torch.randint(levels, (5, 40)).double()
    scores = torch.randint(6, (40,)).double()
    found = OF.spearman(values, scores)
    for row, expected in zip(values, found, strict=True):
        assert scipy.stats.spearmanr(row, scores)[0] == pytest.approx(expected.item(), abs=1e-12)


def test_equal_values_order_nothing():
    assert OF.spearman(torch.ones(2, 4), torch.arange(4.0)).tolist() == [0.0, 0.0]
    assert OF.spearman(torch.arange(4.0), torch.ones(4)).item() == 0.0
