import numpy as np
import pytest
import torch

from ortho_lightning import functional as OF


def random_outputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3


@pytest.mark.parametrize("correction", [0, 1])
def test_covariance_is_numpys(correction):
    outputs = random_outputs(2, 9, 4)
    expected = np.stack([np.cov(group.T, ddof=correction) for group in outputs.numpy()])
    np.testing.assert_allclose(OF.covariance(outputs, correction), expected, rtol=1e-10)


def test_correlation_is_numpys():
    outputs = random_outputs(11, 5)
    np.testing.assert_allclose(OF.correlation(outputs), np.corrcoef(outputs.numpy().T), rtol=1e-10)


def test_a_constant_output_is_correlated_with_nothing():
    outputs = random_outputs(7, 3)
    outputs[:, 1] = 4
    found = OF.correlation(outputs.requires_grad_())
    assert found[1].tolist() == [0, 0, 0]
    found.square().sum().backward()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples_have_no_covariance(n):
    outputs = torch.ones(n, 3)
    assert OF.covariance(outputs, 1).tolist() == torch.zeros(3, 3).tolist()
    assert OF.correlation(outputs).tolist() == torch.zeros(3, 3).tolist()


def test_bfloat16_is_computed_in_float32():
    outputs = random_outputs(64, 4).bfloat16()
    found = OF.covariance(outputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), OF.covariance(outputs.double()), rtol=1e-4, atol=1e-5)


def test_corrections_are_checked():
    with pytest.raises(ValueError, match="correction=2"):
        OF.covariance(torch.ones(3, 2), correction=2)
