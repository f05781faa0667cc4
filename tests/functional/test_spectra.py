"""Singular values, ranks and dead filters against the SVD in float64, matrices of known spectrum, and the edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF
from ortho_lightning.errors import ArgumentTypeError, ConfigurationError
from tests.functional.test_angles import random_kernel, seeds, shapes


def of_spectrum(values, k, d, seed=0):
    """A ``(k, d)`` matrix with these singular values."""
    size = len(values)
    left, _ = torch.linalg.qr(random_kernel(k, size, seed=seed))
    right, _ = torch.linalg.qr(random_kernel(d, size, seed=seed + 1))
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.mT


@given(shapes, seeds)
def test_singular_values_are_those_of_the_svd(shape, seed):
    kernel = random_kernel(*shape, seed=seed)
    expected = np.linalg.svd(kernel.numpy(), compute_uv=False)
    np.testing.assert_allclose(OF.singular_values(kernel), expected, rtol=1e-6, atol=1e-7 * expected.max())


@pytest.mark.parametrize(("k", "d"), [(5, 300), (300, 5), (40, 40)])
def test_a_float32_kernel_keeps_small_singular_values(k, d):
    chosen = [3.0, 1.0, 1e-2, 1e-4]
    found = OF.singular_values(of_spectrum(chosen, k, d).float())
    assert found.dtype == torch.float64
    assert found[:4].tolist() == pytest.approx(chosen, rel=1e-2)
    assert (found[:-1] >= found[1:]).all()
    assert (found[4:] < 1e-6).all()


def test_blocks_give_what_one_product_gives(monkeypatch):
    from ortho_lightning.functional import spectra

    kernel = random_kernel(2, 7, 50)
    whole = OF.singular_values(kernel)
    monkeypatch.setattr(spectra, "_BLOCK_ELEMENTS", 40)
    torch.testing.assert_close(OF.singular_values(kernel), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float64, 1e200)])
def test_squares_neither_overflow_nor_vanish(dtype, scale):
    kernel = random_kernel(4, 6).to(dtype)
    expected = OF.spectrum_statistics(kernel)
    found = OF.spectrum_statistics(kernel * scale)
    assert found.stable_rank == pytest.approx(expected.stable_rank, rel=1e-5)
    assert found.effective_rank == pytest.approx(expected.effective_rank, rel=1e-5)
    assert found.largest_singular_value == pytest.approx(scale * expected.largest_singular_value, rel=1e-5)
    assert found.dead_filters == expected.dead_filters == 0


def test_ranks_of_a_known_spectrum():
    values = [4.0, 2.0, 2.0]
    found = OF.spectrum_statistics(of_spectrum(values, 3, 8))
    assert found.stable_rank == pytest.approx((16 + 4 + 4) / 16)
    shares = [value / 8 for value in values]
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert (found.largest_singular_value, found.smallest_singular_value) == pytest.approx((4.0, 2.0))


@given(st.integers(1, 6), st.floats(0.01, 100))
def test_orthogonal_filters_of_equal_length_have_full_rank(k, length):
    basis, _ = torch.linalg.qr(random_kernel(8, k, seed=k))
    found = OF.spectrum_statistics(length * basis.mT)
    assert (found.stable_rank, found.effective_rank) == pytest.approx((k, k))
    assert (found.largest_singular_value, found.smallest_singular_value) == pytest.approx((length, length))


@given(shapes, seeds)
def test_ranks_lie_between_1_and_the_smaller_size_and_stable_rank_is_the_smaller_of_the_two(shape, seed):
    found = OF.spectrum_statistics(random_kernel(*shape, seed=seed))
    assert 1 - 1e-9 <= found.stable_rank <= min(shape) + 1e-9
    assert found.stable_rank <= found.effective_rank + 1e-6
    assert found.effective_rank <= min(shape) + 1e-9


def test_equal_filters_have_rank_one():
    found = OF.spectrum_statistics(random_kernel(1, 9).repeat(5, 1).float())
    assert (found.stable_rank, found.effective_rank) == pytest.approx((1, 1), abs=1e-5)
    assert found.smallest_singular_value < 1e-6


def test_groups_are_the_block_diagonal_matrix_of_a_grouped_convolution():
    kernel = random_kernel(3, 4, 6)
    kernel[1, 2] = 0
    joined = OF.spectrum_statistics(torch.block_diag(*kernel))
    found = OF.spectrum_statistics(kernel)
    for name in ("stable_rank", "effective_rank", "largest_singular_value", "dead_filters"):
        assert getattr(found, name) == pytest.approx(getattr(joined, name)), name
    assert OF.singular_values(kernel).shape == (3, 4)
    expected = min(np.linalg.svd(group.numpy(), compute_uv=False).min() for group in kernel)
    assert found.smallest_singular_value == pytest.approx(expected, abs=1e-7)


def test_filters_of_zeros_are_dead_and_all_is_finite():
    zeros = OF.spectrum_statistics(torch.zeros(2, 3, 5))
    assert zeros == OF.SpectrumStatistics(0.0, 0.0, 0.0, 0.0, dead_filters=6)
    kernel = random_kernel(4, 6)
    kernel[[0, 3]] = 0
    some = OF.spectrum_statistics(kernel)
    assert some.dead_filters == 2
    assert 1 <= some.stable_rank <= some.effective_rank <= 2 + 1e-6
    assert some.smallest_singular_value < 1e-7


def test_a_filter_is_dead_by_its_length_beside_the_longest():
    kernel = torch.diag(torch.tensor([1.0, 1.1e-3, 0.9e-3, 1e-8, 0.0]))
    assert OF.dead_filters(kernel) == 3
    assert OF.dead_filters(kernel, tolerance=0) == 1
    assert OF.dead_filters(1e-30 * kernel) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_gives_nan_and_no_error(value):
    kernel = random_kernel(2, 3, 4)
    kernel[0, 1, 2] = value
    found = OF.spectrum_statistics(kernel)
    assert math.isnan(found.stable_rank)
    assert math.isnan(found.effective_rank)
    assert math.isnan(found.largest_singular_value)


def test_half_precision_and_autocast_lose_nothing():
    kernel = random_kernel(8, 16).half()
    expected = OF.singular_values(kernel.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(OF.singular_values(kernel), expected, rtol=1e-12, atol=1e-12)


def test_nothing_has_a_gradient():
    assert not OF.singular_values(random_kernel(2, 3).requires_grad_()).requires_grad


def test_wrong_arguments_are_named():
    with pytest.raises(ArgumentTypeError, match="singular_values needs a floating-point tensor"):
        OF.singular_values(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ConfigurationError, match="two or more dimensions"):
        OF.spectrum_statistics(torch.ones(3))
    with pytest.raises(ConfigurationError, match=r"tolerance=1: must be 0 or more and below 1"):
        OF.dead_filters(torch.ones(2, 2), tolerance=1)
