"""Ways to make vectors shorter, as people use them: each a projection, and a code for what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional import Moments
from ortho_lightning.nn import Whitening

# Iterations (faiss's default is 50), those of the first codes (40), and vectors: a compromise in time.
_OPQ_TRAINING = (5, 10, 4096)

Projection: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A way to store a vector in some number of bytes.

    Attributes:
        name: for the table.
        project: gives the vectors whose cosines count, ``(N, d)`` to ``(N, k)``.
        k: width of what it gives.
        code: of a number or a part of the vector, in the words of ``faiss.index_factory``; "Flat" is float32.
        uses_labels: whether scored pairs chose anything.
    """

    name: str
    project: Projection
    k: int
    code: str = "Flat"
    uses_labels: bool = False


def raw_method(d: int) -> Method:
    """Return the vectors as they are."""
    return Method("raw", _unchanged, d)


def methods_at(size: int, train: np.ndarray, moments: Moments, tuned: Callable[[int], Whitening]) -> list[Method]:
    """Return every method that stores a vector in ``size`` bytes.

    Args:
        size: bytes of a vector.
        train: vectors to fit on, ``(N, d)`` float32.
        moments: theirs.
        tuned: gives the whitening of width k that was chosen with labels.

    Raises:
        ConfigurationError: for a size that is not a multiple of four, or larger than the vectors.
    """
    d = train.shape[1]
    if size % 4 or not 4 <= size <= 4 * d:
        raise ConfigurationError(
            f"compare_bytes: {size} must be a multiple of 4, at most the {4 * d} of the raw vectors"
        )
    k = size // 4
    methods = [
        Method("truncation (Matryoshka style)", lambda x: x[:, :k], k),
        Method("PCA (scikit-learn)", _pca(train, k), k),
        Method("faiss PCAMatrix, eigen_power 0", _pca_matrix(train, k, 0.0), k),
        Method("faiss PCAMatrix, eigen_power -0.5", _pca_matrix(train, k, -0.5), k),
        Method("all-but-the-top, then PCA", _all_but_the_top(moments, k), k),
        Method("BERT-whitening (beta = gamma = 1)", _whitening(Whitening.from_moments(moments, k)), k),
        Method("ours, chosen with labels", _whitening(tuned(k)), k, uses_labels=True),
        Method("ours without labels (beta = gamma = 0)", _whitening(Whitening.from_moments(moments, k, 0.0, 0.0)), k),
    ]
    wide = min(size, d)  # a byte for each number
    rotation = _whitening(Whitening.from_moments(moments, wide, 0.0, 0.0))
    if size <= d:
        methods.append(Method("truncation, scalar quantization (faiss SQ8)", lambda x: x[:, :wide], wide, "SQ8"))
        methods.append(Method("ours without labels, then faiss SQ8", rotation, wide, "SQ8"))
    if size < d and d % size == 0:
        methods.append(
            Method(f"faiss OPQ{size}", _opq(train, size), d, f"PQ{size}np")
        )  # np: no polysemous training, which only filters use
    return methods


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _whitening(whitening: Whitening) -> Projection:
    return lambda x: whitening(x).numpy()


def _pca(train: np.ndarray, k: int) -> Projection:
    from sklearn.decomposition import PCA

    return PCA(k, svd_solver="covariance_eigh").fit(train).transform


def _pca_matrix(train: np.ndarray, k: int, power: float) -> Projection:
    import faiss

    matrix = faiss.PCAMatrix(train.shape[1], k, power)
    matrix.train(train)
    return _applied(matrix)


def _opq(train: np.ndarray, parts: int) -> Projection:
    import faiss

    matrix = faiss.OPQMatrix(train.shape[1], parts)
    matrix.niter, matrix.niter_pq_0, matrix.max_train_points = _OPQ_TRAINING
    quantizer = faiss.ProductQuantizer(train.shape[1], parts, 8)
    quantizer.cp.min_points_per_centroid = 1  # faiss warns of so few, once for each part and iteration
    matrix.pq = quantizer
    matrix.train(_unit(train))
    return _applied(matrix)


def _applied(matrix: Any) -> Projection:
    return lambda x: matrix.apply(np.ascontiguousarray(x, np.float32))


def _all_but_the_top(moments: Moments, k: int) -> Projection:
    """Subtract the mean and the d / 100 first components (Mu and Viswanath 2018), and keep the next k."""
    removed = max(1, moments.d // 100)
    pca = Whitening.from_moments(moments, None, 1.0, 0.0)
    return lambda x: pca(x).numpy()[:, removed : removed + k]


def _unit(x: np.ndarray) -> np.ndarray:
    vectors = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    return torch.nn.functional.normalize(vectors, dim=1).numpy()
