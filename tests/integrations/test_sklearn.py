import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from ortho_lightning.integrations.sklearn import WhiteningTransformer


def vectors(n=200, d=7, dtype=np.float64):
    random = np.random.default_rng(0)
    return (random.standard_normal((n, d)) @ random.standard_normal((d, d)) + 3).astype(dtype)


@pytest.mark.parametrize("k", [7, 3])
@pytest.mark.parametrize("whiten", [False, True])
def test_it_is_pca_up_to_signs_and_n_minus_one(k, whiten):
    x = vectors()
    found = WhiteningTransformer(k, gamma=float(whiten)).fit_transform(x)
    expected = PCA(k, whiten=whiten, svd_solver="full").fit_transform(x)
    if whiten:
        expected *= np.sqrt(len(x) / (len(x) - 1))
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-8, atol=1e-8)


def test_inverse_and_partial_fit():
    x = vectors()
    parts = WhiteningTransformer().partial_fit(x[:50]).partial_fit(x[50:])
    np.testing.assert_allclose(parts.inverse_transform(parts.transform(x)), x, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(parts.transform(x), WhiteningTransformer().fit_transform(x), rtol=1e-7, atol=1e-8)


def test_dtypes_are_kept():
    for dtype in (np.float32, np.float64):
        assert WhiteningTransformer(2).fit_transform(vectors(dtype=dtype)).dtype == dtype


def test_in_a_pipeline_and_a_grid_search():
    from sklearn.linear_model import LinearRegression

    x = vectors()
    made = make_pipeline(WhiteningTransformer(), LinearRegression())
    grid = GridSearchCV(made, {"whiteningtransformer__n_components": [1, 7]}, cv=2).fit(x, x[:, 0])
    assert grid.best_params_ == {"whiteningtransformer__n_components": 7}
    assert clone(WhiteningTransformer(3, 0.5, 0.2)).get_params() == {
        "n_components": 3,
        "beta": 0.5,
        "gamma": 0.2,
        "shrinkage": 0.0,
        "eps": 0.0,
    }


def test_names_of_the_components():
    fitted = WhiteningTransformer(2).fit(vectors())
    assert fitted.get_feature_names_out().tolist() == ["whiteningtransformer0", "whiteningtransformer1"]


def test_sample_weights_count_as_repetitions():
    x, repeats = vectors(), np.random.default_rng(0).integers(0, 3, 200)
    weighted = WhiteningTransformer(shrinkage=0.2, eps=0.1).fit(x, sample_weight=repeats)
    repeated = WhiteningTransformer(shrinkage=0.2, eps=0.1).fit(np.repeat(x, repeats, axis=0))
    np.testing.assert_allclose(weighted.transform(x), repeated.transform(x), rtol=1e-8, atol=1e-8)
    parts = WhiteningTransformer(shrinkage=0.2, eps=0.1)
    parts.partial_fit(x[:50], sample_weight=repeats[:50]).partial_fit(x[50:], sample_weight=repeats[50:])
    np.testing.assert_allclose(parts.transform(x), repeated.transform(x), rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks():
    check_estimator(WhiteningTransformer())
