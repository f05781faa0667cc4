"""Whitenings with shrinkage, eps and weights."""

import numpy as np
import pytest
import torch

from ortho_lightning import Whitening
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from tests.nn.test_storage import VERSION_1
from tests.nn.test_whitening import vectors

OPTIONS = [{"shrinkage": 0.3}, {"shrinkage": "ledoit-wolf"}, {"eps": 0.5}, {"shrinkage": 0.1, "eps": 0.01}]


def regularized(x, shrinkage=0.0, eps=0.0):
    """Eigenvalues of the regularized covariance, large to small."""
    covariance = np.cov(x.numpy(), rowvar=False, bias=True)
    if shrinkage == "ledoit-wolf":
        shrinkage = pytest.importorskip("sklearn.covariance").ledoit_wolf_shrinkage(x.numpy())
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    return np.linalg.eigvalsh(shrunk)[::-1] + eps


@pytest.mark.parametrize("options", OPTIONS)
def test_the_spectrum_is_that_of_the_regularized_covariance(options):
    x = vectors()
    whitening = Whitening(**options).double().fit(x)
    np.testing.assert_allclose(whitening.spectrum.numpy(), regularized(x, **options), rtol=1e-9)
    refitted = Whitening().double().fit(x).refit(**options)
    assert torch.equal(refitted(x), whitening(x))
    torch.testing.assert_close(whitening.inverse(whitening(x)), x)


@pytest.mark.parametrize("options", OPTIONS)
def test_files_keep_it(tmp_path, options):
    x, weights = vectors(), torch.rand(60, dtype=torch.float64)
    whitening = Whitening(4, 0.5, 0.7, **options).double().fit(x, weights=weights)
    whitening.save(tmp_path / "w.safetensors")
    again = Whitening.load(tmp_path / "w.safetensors")
    assert torch.equal(again(x), whitening(x))
    assert again.hyperparameters == whitening.hyperparameters
    assert repr(again) == repr(whitening)
    assert torch.equal(again.refit(shrinkage="ledoit-wolf")(x), whitening.refit(shrinkage="ledoit-wolf")(x))
    y = vectors(seed=3)
    assert torch.equal(again.partial_fit(y)(x), whitening.partial_fit(y)(x))


def test_a_file_of_version_1_can_be_shrunk_by_a_number_only():
    stored = Whitening.load(VERSION_1)
    assert (stored.shrinkage, stored.eps) == (0.0, 0.0)
    assert stored.moments.effective_count == 60
    with pytest.raises(ConfigurationError, match="saved by version 1"):
        stored.refit(shrinkage="ledoit-wolf")
    assert stored.refit(shrinkage=0.5, eps=0.1).eps == 0.1


def test_noise_directions_are_not_amplified():
    x = vectors(30, 6) @ torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 1e-6], dtype=torch.float64))
    plain, shrunk = Whitening().double().fit(x), Whitening(shrinkage="ledoit-wolf").double().fit(x)
    assert plain.projection.abs().max() > 1e4
    assert shrunk.projection.abs().max() < 1e2


@pytest.mark.parametrize("kind", ["tensor", "array", "batches"])
def test_weights_of_every_source(kind):
    x, weights = vectors(), torch.rand(60, dtype=torch.float64)
    weights[7] = 0
    source = {"tensor": x, "array": x.numpy(), "batches": [x[:20], x[20:21], x[21:]]}[kind]
    given = weights.numpy() if kind == "array" else weights
    whitening = Whitening().double().fit(source, weights=given)
    y = whitening(x)
    mean = (weights[:, None] * y).sum(0) / weights.sum()
    torch.testing.assert_close(mean, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-9)
    covariance = (weights[:, None] * y).T @ y / weights.sum()
    torch.testing.assert_close(covariance, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-8)
    parts = Whitening().double().partial_fit(x[:25], weights[:25]).partial_fit(x[25:], weights[25:])
    torch.testing.assert_close(parts(x), y)


@pytest.mark.parametrize("weights", [torch.ones(59), torch.ones(61), np.ones((60, 1)), ["a"] * 60])
def test_weights_that_do_not_belong_to_the_vectors_are_rejected(weights):
    x = vectors()
    for source in (x, [x[:30], x[30:]]):
        with pytest.raises(ConfigurationError, match="weight"):
            Whitening().fit(source, weights=weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrinkage": 1.5}, "shrinkage=1.5"),
        ({"shrinkage": "ledoit"}, "shrinkage='ledoit'"),
        ({"eps": -1.0}, "eps=-1.0"),
        ({"eps": float("nan")}, "eps=nan"),
    ],
)
def test_arguments_outside_their_range_are_rejected(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Whitening(**options)


def test_float32_accumulation_fits_nearly_the_same():
    x = vectors(5000, dtype=torch.float32)
    fast = Whitening().fit(x, accumulation=torch.float32)
    torch.testing.assert_close(fast(x), Whitening().fit(x)(x), rtol=1e-3, atol=1e-3)
    assert fast.moments.precision == torch.finfo(torch.float32).eps
    assert OF.numerical_rank(fast.spectrum, fast.moments.precision) == fast.rank
