"""The methods of compare=true: sizes, and those that must agree."""

import numpy as np
import pytest

from ortho_lightning import Whitening
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.nn.vectors import moments_of
from tests.experiments.embeddings.files import vectors

pytest.importorskip("faiss")
pytest.importorskip("sklearn")


def methods(size):
    from ortho_lightning.experiments.embeddings.methods import methods_at

    x = vectors(400, 8)
    moments = moments_of(x)
    found = methods_at(size, x, moments, lambda k: Whitening.from_moments(moments, k, 0.5, 0.5))
    return x, {method.name: method for method in found}


def test_every_method_stores_a_vector_in_the_same_size():
    import faiss

    x, found = methods(8)
    assert len(found) == 10
    for method in found.values():
        assert method.project(x).shape == (400, method.k)
        assert faiss.index_factory(method.k, method.code).sa_code_size() == 8


def test_three_principal_component_analyses_agree_and_whitening_is_eigen_power():
    x, found = methods(8)
    ours = Whitening(2, 1.0, 0.0).fit(x)(x).numpy()
    for name in ("PCA (scikit-learn)", "faiss PCAMatrix, eigen_power 0"):
        y = found[name].project(x)
        np.testing.assert_allclose(np.abs(y), np.abs(ours), rtol=1e-3, atol=1e-3)
    whitened = found["BERT-whitening (beta = gamma = 1)"].project(x)
    power = found["faiss PCAMatrix, eigen_power -0.5"].project(x)
    ratios = np.abs(power).mean(0) / np.abs(whitened).mean(0)
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-3)  # faiss divides by another N


def test_a_size_that_cannot_be_is_rejected():
    for size in (6, 36):
        with pytest.raises(ConfigurationError, match=f"compare_bytes: {size}"):
            methods(size)
