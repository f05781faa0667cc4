import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF


def vectors(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(2, 30), st.integers(1, 8), st.floats(-1, 2), st.integers(0, 2**20))
def test_axes_are_orthonormal_and_diagonalize_the_second_moment(n, d, beta, seed):
    moments = OF.Moments.of(vectors(n, d, seed) + 1)
    eigenvalues, axes = OF.principal_axes(moments, beta)
    torch.testing.assert_close(axes.T @ axes, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-12)
    sigma = moments.second_moment(beta)
    torch.testing.assert_close(axes @ eigenvalues.diag() @ axes.T, sigma, rtol=1e-9, atol=1e-12 * sigma.abs().max())
    assert (eigenvalues[:-1] >= eigenvalues[1:]).all()
    assert (eigenvalues >= 0).all()


def test_signs_are_the_same_for_the_same_axes():
    x = vectors(50, 6)
    _, axes = OF.principal_axes(OF.Moments.of(x))
    _, mirrored = OF.principal_axes(OF.Moments.of(-x.flip(0)))
    torch.testing.assert_close(axes, mirrored, rtol=0, atol=1e-10)
    assert (axes.gather(0, axes.abs().argmax(0)[None]) > 0).all()


def test_of_entries_of_equal_size_the_first_is_positive():
    for noise in (1e-14, -1e-14):
        x = torch.tensor([[1.0, -1.0 + noise], [-1.0, 1.0], [0.1, 0.1], [-0.1, -0.1]], dtype=torch.float64)
        _, axes = OF.principal_axes(OF.Moments.of(x))
        assert axes[0, 0] > 0


def test_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    OF.principal_axes(OF.Moments.of(vectors(5, 2)))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 2.0])
def test_scales_are_powers_of_the_eigenvalues(gamma):
    eigenvalues = torch.tensor([9.0, 4.0, 0.5], dtype=torch.float64)
    expected = torch.tensor([9.0 ** (-gamma / 2), 4.0 ** (-gamma / 2), 0.5 ** (-gamma / 2)], dtype=torch.float64)
    torch.testing.assert_close(OF.whitening_scales(eigenvalues, gamma), expected)


def test_beyond_the_rank_the_scale_is_zero_unless_gamma_is():
    eigenvalues = torch.tensor([1.0, 4 * torch.finfo(torch.float64).eps, 1e-20, 0.0], dtype=torch.float64)
    assert OF.numerical_rank(eigenvalues) == 1
    assert OF.whitening_scales(eigenvalues, 0.5).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert OF.whitening_scales(eigenvalues, 0.0).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert OF.numerical_rank(torch.zeros(3)) == 0


def test_effective_rank_of_known_spectra():
    assert OF.effective_rank(torch.ones(7)) == pytest.approx(7)
    assert OF.effective_rank(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert OF.effective_rank(torch.tensor([0.75, 0.25])) == pytest.approx(4 / 3**0.75)
    assert OF.effective_rank(torch.zeros(3)) == 0


@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 2**20))
def test_mean_cosine_is_that_of_all_pairs(n, d, seed):
    x = vectors(n, d, seed) + 0.5
    cosines = OF.pairwise_cosines(x)
    expected = (cosines.sum() - n) / (n * (n - 1))
    assert OF.mean_cosine(*OF.unit_sum(x)) == pytest.approx(expected.item(), abs=1e-12)


def test_unit_sums_add_up_and_leave_zeros_out():
    x = vectors(9, 3)
    (first, m), (second, n) = OF.unit_sum(x[:4]), OF.unit_sum(torch.cat([x[4:], torch.zeros(2, 3)]))
    assert OF.mean_cosine(first + second, m + n) == pytest.approx(OF.mean_cosine(*OF.unit_sum(x)))
    assert OF.unit_sum(torch.full((1, 2), 1e200, dtype=torch.float64))[0].tolist() == pytest.approx([0.5**0.5] * 2)
    assert math.isnan(OF.mean_cosine(*OF.unit_sum(x[:1])))


def test_bad_arguments_are_rejected():
    moments = OF.Moments.of(torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"1 vector\(s\)"):
        OF.principal_axes(moments)
    with pytest.raises(ValueError, match="beta=nan"):
        OF.principal_axes(moments.merge(moments), math.nan)
    with pytest.raises(ValueError, match="gamma=-1"):
        OF.whitening_scales(torch.ones(2), -1)
