"""Recall of whitenings against a transform for each, and nearest neighbours against all cosines."""

import numpy as np
import pytest
import torch

from ortho_lightning import functional as OF


def vectors(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / torch.arange(1, d + 1) + 0.3


def neighbours(p, q, count):
    p, q = p / p.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
    return (p @ q.T).topk(count).indices.numpy()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_every_recall_is_that_of_a_transform(beta):
    queries, base = vectors(15, 7), vectors(200, 7, seed=1)
    moments = OF.Moments.of(base)
    gammas, ks = [0.0, 0.5, 1.0], [5, 1, 7]
    true = neighbours(queries, base, 10)
    found = OF.surviving_neighbours(queries, base, moments, beta, gammas, ks)
    for gamma, recall in zip(gammas, found, strict=True):
        eigenvalues, axes = torch.linalg.eigh(moments.second_moment(beta))
        projection = (axes * eigenvalues ** (-gamma / 2)).flip(1)
        for k, value in zip(ks, recall.tolist(), strict=True):
            if k == 1:
                continue  # cosines of one number are +1 or -1: all of a sign are equally near
            p, q = ((x - beta * moments.mean) @ projection[:, :k] for x in (queries, base))
            here = neighbours(p, q, 10)
            expected = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(here, true, strict=True)])
            assert value == pytest.approx(expected, abs=0.008)  # one near tie in float32


def test_a_rotation_keeps_every_neighbour_and_copies_count_as_each_other():
    base = vectors(50, 4, seed=1)
    base = torch.cat([base, base, base])
    (recall,) = OF.surviving_neighbours(vectors(9, 4), base, OF.Moments.of(base), 0.0, [0.0], [4], 5)
    assert recall.item() == 1.0


def test_nearest_are_the_largest_cosines():
    queries, base = vectors(6, 5), vectors(40, 5, seed=1)
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], base[None], dim=2)
    torch.testing.assert_close(OF.nearest(queries, base, 3), cosines.topk(3).values.float())
    assert OF.nearest(torch.zeros(1, 5), base, 2).tolist() == [[0.0, 0.0]]
