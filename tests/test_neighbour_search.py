"""The search without labels: the grid, the fewest components, and held-out queries."""

import numpy as np
import pytest
import torch

from ortho_lightning import Whitening
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.search import fewest_components, search_neighbours


def vectors(n, d=40, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, d)) / np.arange(1, d + 1)).astype(np.float32)


def test_the_fewest_components_are_those_of_a_search_of_all():
    base, queries = vectors(500), vectors(30, seed=1)
    every = search_neighbours(base, queries, components=range(1, 41))
    for keep in (0.3, 0.8, 0.95):
        point, found = fewest_components(base, queries, keep)
        assert point == every.smallest(keep)
        assert list(found.components) == sorted(set(found.components))
        assert found.recall[0, 0, found.components.index(point.n_components)] == point.recall


def test_of_equal_widths_the_best_recall_counts():
    found = search_neighbours(vectors(300), vectors(20, seed=1), [0.0, 1.0], [0.0, 1.0], [5, 40])
    found.recall[:] = torch.tensor([[[0.1, 1.0], [0.95, 0.9]], [[0.96, 0.9], [0.2, 0.3]]], dtype=torch.float64)
    point = found.smallest(0.95)
    assert (point.beta, point.gamma, point.n_components, point.recall) == (1.0, 0.0, 5, 0.96)
    whitening = found.whitening(point)
    assert (whitening.n_components, whitening.beta, whitening.gamma) == (5, 1.0, 0.0)
    assert len(found.table()) == 8
    found.recall.fill_(0.5)
    with pytest.raises(ConfigurationError, match=r"keep=0\.95: .* best recall is 0\.5"):
        found.smallest(0.95)


def test_the_moments_may_be_of_other_vectors():
    base, queries, others = vectors(300), vectors(20, seed=1), vectors(900, seed=2)[:, ::-1].copy()
    moments = Whitening().fit(others).moments
    assert search_neighbours(base, queries, components=[10], moments=moments).moments is not None
    own = search_neighbours(base, queries, components=[10]).recall
    assert not torch.equal(search_neighbours(base, queries, components=[10], moments=moments).recall, own)


def test_picture(tmp_path):
    point, found = fewest_components(vectors(300), vectors(20, seed=1), 0.8)
    found.save_picture(tmp_path / "recall.png", point, "title")
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_searched_is_rejected():
    base, queries = vectors(50), vectors(5, seed=1)
    for arguments, options, message in (
        ((base, queries[:, :3]), {}, r"base \(50, 40\) and queries \(5, 3\)"),
        ((base, queries[:0]), {}, r"queries \(0, 40\)"),
        ((base, queries), {"neighbours": 51}, "neighbours=51"),
        ((base, queries), {"components": [41]}, r"components=\[41\]"),
        ((base, queries), {"gammas": [-1.0]}, "gamma=-1"),
        ((base, queries * np.nan), {}, "NaN"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            search_neighbours(*arguments, **options)
    with pytest.raises(ConfigurationError, match="keep=0: must be a share"):
        fewest_components(base, queries, 0)


def test_on_the_shared_embeddings(shared):
    # distinct train and dev sentences to search among, distinct test sentences as queries: as in docs/whitening.md
    folder = shared("data/stsb")

    def sentences(*splits):
        parts = []
        for split in splits:
            with np.load(folder / f"minilm-sentence-{split}.npz") as stored:
                parts += [stored["a"], stored["b"]]
        return np.unique(np.concatenate(parts).view("V768")).view(np.float16).reshape(-1, 384).astype(np.float32)

    base, queries = sentences("train", "dev"), sentences("test")
    point, _ = fewest_components(base, queries[::10], 0.95)
    assert 240 <= point.n_components <= 270
    found = search_neighbours(base, queries[::10], components=[128, 256]).recall.flatten().tolist()
    assert found == pytest.approx([0.772, 0.95], abs=0.015)
