import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF


def random_kernel(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden(golden):
    values = golden("kernel.npz")
    kernel, close = values["kernel"], {"rtol": 1e-10, "atol": 0}
    torch.testing.assert_close(OF.gram_penalty(kernel), values["gram_fro"], **close)
    torch.testing.assert_close(OF.gram_penalty(kernel, off_diagonal=True), values["gram_offdiag"], **close)
    torch.testing.assert_close(OF.gram_penalty(kernel, norm="spectral"), values["gram_spectral"], **close)
    torch.testing.assert_close(OF.gram_penalty(values["grouped_kernel"]), values["grouped_gram_fro"], **close)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**20))
def test_both_sides_of_k_and_d_equal_the_literal_formula(k, d, seed):
    kernel = random_kernel(k, d, seed=seed)
    distance = kernel @ kernel.T - torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(OF.gram_penalty(kernel), distance.square().sum())
    off = distance - distance.diagonal().diag()
    torch.testing.assert_close(OF.gram_penalty(kernel, off_diagonal=True), off.square().sum(), rtol=1e-7, atol=1e-9)


def test_spectral_is_the_squared_norm_of_the_smaller_gram():
    kernel = random_kernel(3, 5)
    distance = kernel @ kernel.T - torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.matrix_norm(distance, 2).square()
    torch.testing.assert_close(OF.gram_penalty(kernel, norm="spectral"), expected)
    torch.testing.assert_close(OF.gram_penalty(kernel.T, norm="spectral"), expected)


@pytest.mark.parametrize("options", [{}, {"off_diagonal": True}, {"norm": "spectral"}])
def test_zero_for_orthonormal_filters(options):
    orthonormal = torch.linalg.qr(random_kernel(8, 5)).Q.T
    assert OF.gram_penalty(orthonormal, **options).item() == pytest.approx(0.0, abs=1e-25)


def test_off_diagonal_does_not_cancel():
    kernel = torch.cat([30 * torch.eye(4), torch.zeros(1, 4)])
    assert OF.gram_penalty(kernel, off_diagonal=True).item() == 0.0


def test_floor_of_more_filters_than_dimensions_is_k_minus_d():
    tight_frame = torch.linalg.qr(random_kernel(8, 5)).Q  # 8 filters in R^5 with W W^T = I
    assert OF.gram_penalty(tight_frame).item() == pytest.approx(3.0)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (2, 3, 5)])
@pytest.mark.parametrize("options", [{}, {"off_diagonal": True}, {"norm": "spectral"}])
def test_gradients(shape, options):
    assert torch.autograd.gradcheck(lambda w: OF.gram_penalty(w, **options), random_kernel(*shape).requires_grad_())


@pytest.mark.parametrize("options", [{}, {"off_diagonal": True}, {"norm": "spectral"}])
def test_zero_and_identical_filters_have_finite_gradients(options):
    kernel = random_kernel(4, 6)
    kernel[1] = 0
    kernel[2] = kernel[3]
    kernel.requires_grad_()
    OF.gram_penalty(kernel, **options).backward()
    assert kernel.grad.isfinite().all()


def test_bfloat16_is_computed_in_float32():
    kernel = random_kernel(6, 40).bfloat16()
    found = OF.gram_penalty(kernel)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), OF.gram_penalty(kernel.double()), rtol=1e-5, atol=0)


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="norm='nuclear'"):
        OF.gram_penalty(torch.eye(2), norm="nuclear")
    with pytest.raises(ValueError, match="not defined"):
        OF.gram_penalty(torch.eye(2), off_diagonal=True, norm="spectral")
