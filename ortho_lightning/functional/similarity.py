"""Rank correlation of the cosines between whitened pairs, for every number of components at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ortho_lightning.functional.moments import Moments
from ortho_lightning.functional.whitening import principal_axes, whitening_scales

# Pairs and rows at a time, whose arrays stay in the nearer caches.
_PAIRS = 128
_ROWS = 64


def whitened_cosines(
    a: Tensor, b: Tensor, moments: Moments, beta: float, gammas: Sequence[float], components: Sequence[int]
) -> Iterator[Tensor]:
    r"""Yield the cosines between rows of a and b after whitening with beta, each gamma and each k.

    One eigendecomposition serves all: with :math:`p = \tilde a`, :math:`q = \tilde b` at full width, the cosine of the
    first k components is :math:`\sum_{i\le k} p_i q_i / (|p_{\le k}| |q_{\le k}|)`, three cumulative sums. It is
    divided by the product of the two norms, not by the root of a product: at k = 1 it is exactly +1 or -1, so that
    ties stay ties.

    Args:
        a: ``(N, d)``, the first vector of each pair.
        b: ``(N, d)``, the second.
        moments: moments of the vectors that the whitening is fitted on.
        beta: share of the mean that is subtracted; see :class:`~ortho_lightning.Whitening`.
        gammas: exponents of the eigenvalues.
        components: values of k, each from 1 to d.

    Yields:
        For each gamma ``(len(components), N)``, float64; 0 where one of the two vectors is zero.
    """
    eigenvalues, axes = principal_axes(moments, beta)
    # numpy from here on: it adds whole rows, four times as fast as torch, and its roots are exact to the last bit,
    # where torch's are off for one number in twenty thousand, which would break ties
    p, q = (((x.to(torch.float64) - beta * moments.mean) @ axes).T.contiguous().cpu().numpy() for x in (a, b))
    every = list(components) == list(range(1, moments.d + 1))
    rows = slice(None) if every else np.asarray(components) - 1
    for gamma in gammas:
        scales = whitening_scales(eigenvalues, gamma, moments.precision)[:, None].cpu().numpy()
        cosines = np.zeros_like(p)
        for start in range(0, p.shape[1], _PAIRS):
            here = slice(start, start + _PAIRS)
            _running_cosines(p[:, here] * scales, q[:, here] * scales, cosines[:, here])
        yield torch.from_numpy(cosines[rows])


def _running_cosines(left: np.ndarray, right: np.ndarray, cosines: np.ndarray) -> None:
    """Write the cosine of the first k rows of two arrays, for each k; both are overwritten."""
    products = left * right
    np.add.accumulate(products, axis=0, out=products)
    for values in (left, right):
        np.square(values, out=values)
        np.add.accumulate(values, axis=0, out=values)
        np.sqrt(values, out=values)
    left *= right
    np.divide(products, left, out=cosines, where=left > 0)


def spearman(values: Tensor, scores: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each row of ``values`` with ``scores``; ties get their mean rank.

    Args:
        values: ``(..., N)``.
        scores: ``(N,)``.

    Returns:
        ``(...)`` in [-1, 1], float64; 0 where all values, or all scores, are equal.

    Example:
        >>> found = spearman(torch.tensor([[1.0, 5.0, 9.0], [2.0, 2.0, 2.0]]), torch.tensor([0.0, 1.0, 5.0]))
        >>> [round(value, 9) for value in found.tolist()]
        [1.0, 0.0]
    """
    expected = _centred_ranks(scores)
    rows = values.cpu().reshape(-1, values.shape[-1])
    blocks = [_products_of_ranks(block.numpy(), expected.numpy()) for block in rows.split(_ROWS)]
    products, norms = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    norms = norms * torch.linalg.vector_norm(expected)
    found = torch.where(norms > 0, products / torch.where(norms > 0, norms, 1.0), 0.0)
    return found.reshape(values.shape[:-1])


def _products_of_ranks(rows: np.ndarray, expected: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the product of each row's centred ranks with ``expected``, and their norm.

    A row needs its order only: the j-th smallest value has rank j.
    """
    n = rows.shape[1]
    order = np.argsort(rows, axis=1)
    gathered = np.take(expected, order)
    products = gathered @ (np.arange(n) - (n - 1) / 2)
    squares = np.full(len(rows), _sum_of_squares(n))
    ascending = np.take_along_axis(rows, order, 1)
    equal = np.flatnonzero(np.pad(ascending[:, 1:] == ascending[:, :-1], ((0, 0), (0, 1))))
    if len(equal):  # equal values get the mean of their ranks
        firsts = np.flatnonzero(np.diff(equal, prepend=-2) != 1)
        starts, lengths = equal[firsts], np.diff(firsts, append=len(equal)) + 1
        offsets = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        at = np.repeat(starts, lengths) + offsets
        moved = (np.repeat(lengths - 1, lengths) / 2 - offsets) * gathered.ravel()[at]
        products += np.bincount(at // n, moved, len(rows))
        squares -= np.bincount(starts // n, _sum_of_squares(lengths), len(rows))
    return torch.from_numpy(products), torch.from_numpy(np.sqrt(squares))


def _sum_of_squares(n: Any) -> Any:
    """Sum of the squared ranks of n values, centred."""
    return n * (n * n - 1.0) / 12


def _centred_ranks(values: Tensor) -> Tensor:
    from scipy.stats import rankdata  # here: it takes half a second to import, which every command would pay

    ranks = torch.from_numpy(np.asarray(rankdata(values.cpu().numpy(), axis=-1)))
    return ranks - (values.shape[-1] + 1) / 2
