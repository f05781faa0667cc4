import pytest
import torch

from ortho_lightning import functional as OF


def symmetric(*shape, seed=0):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return matrix + matrix.mT


def test_it_converges_to_the_spectral_norm_from_below():
    matrix = symmetric(3, 6, 6)
    expected = torch.linalg.matrix_norm(matrix, 2)
    vector = torch.ones(3, 6, dtype=torch.float64)
    before = torch.zeros(3, dtype=torch.float64)
    for _ in range(4000):
        found, vector = OF.spectral_norm(matrix, vector)
        assert (found <= expected + 1e-9).all()
        assert (found >= before - 1e-9).all()
        before = found
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_the_gradient_at_convergence_is_that_of_the_spectral_norm():
    matrix = symmetric(5, 5).requires_grad_()
    _, vector = OF.spectral_norm(matrix, torch.ones(5), iterations=2000)
    OF.spectral_norm(matrix, vector)[0].backward()
    found = matrix.grad.clone()
    (expected,) = torch.autograd.grad(torch.linalg.matrix_norm(matrix, 2), matrix)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 3), torch.diag(torch.tensor([0.0, 0.0, 2.0]))])
def test_a_vector_that_is_mapped_to_zero_is_kept(matrix):
    matrix.requires_grad_()
    value, vector = OF.spectral_norm(matrix, torch.tensor([1.0, 0.0, 0.0]), iterations=3)
    value.backward()
    assert value.item() == 0
    assert vector.tolist() == [1, 0, 0]
    assert matrix.grad.isfinite().all()
