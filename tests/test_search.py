"""The grid search against a loop that refits, and that dev and test stay apart."""

import numpy as np
import pytest
import scipy.stats
import torch

from ortho_lightning import Whitening
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.search import raw_score, score_pairs, search


def pairs(n=60, d=9, seed=0):
    random = np.random.default_rng(seed)
    a = random.standard_normal((n, d)) * np.linspace(3, 0.2, d) + 1
    b = a + random.standard_normal((n, d))
    return a, b, random.integers(0, 6, n).astype(np.float32)


def loop(a, b, scores, fitted, beta, gamma, k):
    whitening = Whitening(k, beta, gamma).double().fit(fitted)
    p, q = whitening(a).numpy(), whitening(b).numpy()
    cosines = (p * q).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1))
    return scipy.stats.spearmanr(cosines, scores)[0]


def test_every_value_is_that_of_a_loop_that_refits():
    a, b, scores = pairs()
    betas, gammas = [0.0, 0.5, 1.0], [0.0, 0.3, 1.0]
    result = search(a, b, scores, betas, gammas)
    assert result.spearman.shape == (3, 3, 9)
    for i, beta in enumerate(betas):
        for j, gamma in enumerate(gammas):
            for k in range(1, 10):
                expected = loop(a, b, scores, np.concatenate([a, b]), beta, gamma, k)
                assert result.spearman[i, j, k - 1].item() == pytest.approx(expected, abs=1e-9)


def test_on_the_shared_embeddings_too(shared):
    with np.load(shared("data/stsb/minilm-sentence-dev.npz")) as stored:
        a, b, scores = stored["a"], stored["b"], stored["score"]
    ks = [1, 2, 17, 256, 384]
    result = search(a, b, scores, [0.0, 0.7], [0.0, 0.4, 1.0], ks)
    fitted = np.concatenate([a, b]).astype(np.float64)
    for i, j, at in ((0, 0, 0), (0, 2, 4), (1, 1, 1), (1, 2, 2), (1, 0, 3), (0, 1, 4)):
        expected = loop(a.astype(float), b.astype(float), scores, fitted, [0.0, 0.7][i], [0.0, 0.4, 1.0][j], ks[at])
        assert result.spearman[i, j, at].item() == pytest.approx(expected, abs=1e-9)


def test_the_best_is_the_largest_with_the_fewest_components():
    a, b, scores = pairs()
    result = search(a, b, scores, [0.0, 1.0], [0.0, 1.0])
    best = result.best
    assert best.spearman == result.spearman.max()
    tied = search(a, a, np.arange(60.0), [0.0, 1.0], [0.0], [9, 3, 5])  # every cosine is 1 up to rounding
    tied.spearman.fill_(0.5)
    assert (tied.best.n_components, tied.best.beta) == (3, 0.0)


def test_the_test_pairs_are_reported_and_never_chosen_on():
    dev, test = pairs(seed=0), pairs(seed=1)
    result = search(*dev, [0.0, 1.0], [0.0, 1.0])
    before = result.best
    reported = result.report(*test)
    assert result.best == before
    assert (reported.beta, reported.gamma, reported.n_components) == (before.beta, before.gamma, before.n_components)
    fitted = np.concatenate(dev[:2])  # on the dev sentences, whatever is reported on
    assert reported.spearman == pytest.approx(
        loop(*test, fitted, before.beta, before.gamma, before.n_components), abs=1e-9
    )


def test_the_whitening_of_the_best_is_fitted():
    a, b, scores = pairs()
    result = search(a, b, scores, [0.3], [0.6], [4])
    whitening = result.whitening()
    assert (whitening.beta, whitening.gamma, whitening.n_components) == (0.3, 0.6, 4)
    assert score_pairs(a, b, scores, whitening.moments, 0.3, 0.6, 4) == result.best.spearman


def test_no_whitening_is_the_plain_cosine():
    a, b, scores = pairs()
    rotated = search(a, b, scores, [0.0], [0.0], [9]).best.spearman
    assert raw_score(a, b, scores) == pytest.approx(rotated, abs=1e-12)


def test_table_and_picture(tmp_path):
    result = search(*pairs(), [0.0, 1.0], [0.0, 0.5, 1.0])
    table = result.table()
    assert [(row["beta"], row["gamma"]) for row in table] == [(b, g) for b in (0.0, 1.0) for g in (0.0, 0.5, 1.0)]
    assert max(row["spearman"] for row in table) == result.best.spearman
    result.save_picture(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_refusals():
    a, b, scores = pairs()
    with pytest.raises(ConfigurationError, match=r"betas=\[\]"):
        search(a, b, scores, [], [1.0])
    with pytest.raises(ConfigurationError, match="gamma=-1"):
        search(a, b, scores, [1.0], [-1.0])
    with pytest.raises(ConfigurationError, match=r"components=\[0, 10\]: must be integers from 1 to 9"):
        search(a, b, scores, [1.0], [1.0], [0, 3, 10])
    with pytest.raises(ValueError, match=r"a \(60, 9\), b \(59, 9\)"):
        search(a, b[1:], scores, [1.0], [1.0])
    a[7, 0] = np.nan
    with pytest.raises(ValueError, match=r"row\(s\): 7"):
        search(a, b, scores, [1.0], [1.0])
    with pytest.raises(ValueError, match="score 3 is not"):
        search(b, b, np.where(np.arange(60) == 3, np.nan, scores), [1.0], [1.0])
    with pytest.raises(ValueError, match="vectors of 2"):
        search(b, b, scores, [1.0], [1.0], moments=Whitening().fit(torch.randn(5, 2)).moments)
