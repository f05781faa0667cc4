"""Rank correlation of the cosines between whitened pairs, for every number of components at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ortho_lightning.functional.moments import Moments
from ortho_lightning.functional.whitening import principal_axes, whitening_scales


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
        beta: share of the mean that is subtracted; see :mod:`ortho_lightning.functional.whitening`.
        gammas: exponents of the eigenvalues.
        components: values of k, each from 1 to d.

    Yields:
        For each gamma ``(len(components), N)``, float64; 0 where one of the two vectors is zero.
    """
    eigenvalues, axes = principal_axes(moments, beta)
    p, q = ((x.to(torch.float64) - beta * moments.mean) @ axes for x in (a, b))
    columns = torch.tensor(components) - 1
    for gamma in gammas:
        scales = whitening_scales(eigenvalues, gamma, moments.precision)
        left, right = (p * scales).T.contiguous(), (q * scales).T.contiguous()
        product = (left * right).cumsum(0)[columns]
        norms = _root(left.square().cumsum(0)[columns]) * _root(right.square().cumsum(0)[columns])
        yield torch.where(norms > 0, product / torch.where(norms > 0, norms, 1.0), 0.0)


def _root(values: Tensor) -> Tensor:
    # torch's square root is off by a bit for one number in twenty thousand, numpy's for none
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


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
    ranks = _centred_ranks(values)
    expected = _centred_ranks(scores)
    norms = torch.linalg.vector_norm(ranks, dim=-1) * torch.linalg.vector_norm(expected)
    return torch.where(norms > 0, (ranks @ expected) / torch.where(norms > 0, norms, 1.0), 0.0)


def _centred_ranks(values: Tensor) -> Tensor:
    from scipy.stats import rankdata  # here: it takes half a second to import, which every command would pay

    ranks = torch.from_numpy(np.asarray(rankdata(values.cpu().numpy(), axis=-1)))
    return ranks - (values.shape[-1] + 1) / 2
