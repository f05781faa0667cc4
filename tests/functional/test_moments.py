import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF

Moments = OF.Moments


def vectors(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_same(found, expected, rtol=1e-10, atol=1e-12):
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=rtol, atol=atol)
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=rtol, atol=atol * max(found.count, 1))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**20))
def test_mean_and_covariance_are_those_of_numpy(n, d, seed):
    x = vectors(n, d, seed)
    found = Moments.of(x)
    np.testing.assert_allclose(found.mean.numpy(), x.numpy().mean(0), rtol=1e-10, atol=1e-13)
    expected = np.cov(x.numpy().T, bias=True).reshape(d, d)
    np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**20))
def test_merging_is_joining(left, right, seed):
    x = vectors(left + right, 4, seed) + 3
    assert_same(Moments.of(x[:left]).merge(Moments.of(x[left:])), Moments.of(x))


def test_merging_commutes_and_empty_changes_nothing():
    a, b = Moments.of(vectors(7, 3)), Moments.of(vectors(5, 3, seed=1))
    assert_same(a.merge(b), b.merge(a))
    assert_same(Moments.empty(3).merge(a), a)
    assert_same(a.merge(Moments.empty(3)), a)


def test_blocks_equal_one_product():
    x = vectors(10_000, 11) + torch.arange(11.0)  # more rows than a block, and columns that panels do not divide
    centred = x - x.mean(0)
    found = Moments.of(x)
    torch.testing.assert_close(found.scatter, centred.T @ centred, rtol=1e-11, atol=1e-8)
    assert torch.equal(found.scatter, found.scatter.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_of_1e4_leaves_the_covariance_to_1e_6(dtype):
    x = (vectors(20_000, 8) + 1e4).to(dtype)
    expected = np.cov(x.double().numpy() - 1e4, rowvar=False, bias=True)  # 1e4 is exact in both
    for found in (Moments.of(x), Moments.of(x[:9000]).merge(Moments.of(x[9000:]))):
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=0, atol=1e-6)


def test_batches_of_very_different_means_lose_nothing():
    x = torch.cat([vectors(5000, 3), vectors(5000, 3, seed=1) + 1e6])
    expected = np.cov(x.numpy() - 5e5, rowvar=False, bias=True)
    np.testing.assert_allclose(Moments.of(x).covariance.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float64(dtype):
    x = vectors(5000, 4, dtype=dtype) + 2
    found = Moments.of(x)
    assert found.mean.dtype == found.scatter.dtype == torch.float64
    assert_same(found, Moments.of(x.double()), rtol=0, atol=0)


def test_under_autocast_nothing_is_bfloat16():
    x = vectors(50, 6, dtype=torch.float32)
    expected = Moments.of(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(Moments.of(x), expected, rtol=0, atol=0)


def test_constant_columns_are_exactly_constant():
    x = torch.cat([vectors(9000, 2), torch.full((9000, 1), 0.1, dtype=torch.float64)], 1)
    found = Moments.of(x)
    assert found.mean[2] == x[0, 2]
    assert torch.equal(found.scatter[2], torch.zeros(3, dtype=torch.float64))


def test_float32_data_of_lower_rank_keep_their_rank():
    x = (vectors(5000, 20) @ vectors(20, 60, seed=1)).float()
    eigenvalues, _ = OF.principal_axes(Moments.of(x))
    assert eigenvalues[20] < 1e-12 * eigenvalues[0]


@pytest.mark.parametrize("beta", [-0.5, 0.0, 0.3, 1.0])
def test_the_second_moment_is_the_literal_sum(beta):
    x = vectors(40, 5) + 2
    shifted = x - beta * x.mean(0)
    torch.testing.assert_close(Moments.of(x).second_moment(beta), shifted.T @ shifted / 40)


def test_nan_and_infinity_are_named_by_row():
    x = vectors(9000, 3)
    x[5000, 1], x[8000, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"in 2 row\(s\): 5000, 8000\."):
        Moments.of(x)
    with pytest.raises(ValueError, match=r"1 row\(s\): 107\."):
        Moments.of(torch.tensor([[1.0], [torch.nan]]), first_row=106)
    with pytest.raises(ValueError, match="too large for float64"):
        Moments.of(torch.tensor([[1e308], [-1e308]], dtype=torch.float64))


def test_bad_arguments_are_rejected():
    with pytest.raises(TypeError, match="int64"):
        Moments.of(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Moments.of(torch.ones(3))
    with pytest.raises(ValueError, match="with 2 and with 3 numbers"):
        Moments.of(torch.ones(3, 2)).merge(Moments.of(torch.ones(3, 3)))


def test_no_rows_are_no_moments():
    found = Moments.of(torch.ones(0, 3))
    assert found.count == 0
    assert found.covariance.isnan().all()
