"""Nearest neighbours by cosine, and how many of them a whitening keeps, for every number of components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ortho_lightning.functional.moments import Moments
from ortho_lightning.functional.whitening import principal_axes, whitening_scales

# Numbers in the scores of some queries against all vectors: 64 MB in float32.
_SCORES = 1 << 24
# Cosines this close are equal in float32: of copies of a vector, any counts as the neighbour.
_TIE = 1e-6


def nearest(queries: Tensor, base: Tensor, count: int) -> Tensor:
    """Return the largest cosines between each query and the vectors of the base.

    Args:
        queries: ``(Q, d)``.
        base: ``(N, d)``.
        count: number of neighbours n, at most N.

    Returns:
        ``(Q, n)`` float32, from large to small; 0 for a vector of length 0.

    Example:
        >>> nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.0]]), 2).tolist()
        [[1.0, 0.0]]
    """
    queries, base = _unit(queries), _unit(base)
    step = max(1, _SCORES // len(base))
    return torch.cat([(block @ base.T).topk(count, dim=1).values for block in queries.split(step)])


def surviving_neighbours(
    queries: Tensor,
    base: Tensor,
    moments: Moments,
    beta: float,
    gammas: Sequence[float],
    components: Sequence[int],
    count: int = 10,
) -> Iterator[Tensor]:
    r"""Yield the share of each query's true nearest neighbours that are still the nearest after whitening.

    Neighbours are those of largest cosine, the true ones between the raw vectors. One eigendecomposition serves all.
    The scores of the first k components are a sum, so going through every k from small to large costs one product of
    all components.

    Args:
        queries: ``(Q, d)``, best not among the vectors of ``moments``.
        base: ``(N, d)``, the vectors that are searched, without the queries.
        moments: moments of the vectors that the whitening is fitted on.
        beta: share of the mean that is subtracted; see :class:`~ortho_lightning.Whitening`.
        gammas: exponents of the eigenvalues.
        components: values of k, each from 1 to d, in any order.
        count: number of neighbours; recall@10 by default.

    Yields:
        For each gamma the mean over the queries, ``(len(components),)`` float64 in [0, 1].
    """
    threshold = nearest(queries, base, count)[:, -1] - _TIE
    unit_queries, unit_base = _unit(queries), _unit(base)
    eigenvalues, axes = principal_axes(moments, beta)
    p, q = ((x.to(torch.float64) - beta * moments.mean) @ axes for x in (queries, base))
    order = sorted(range(len(components)), key=lambda at: components[at])
    step = max(1, _SCORES // len(base))
    for gamma in gammas:
        scales = whitening_scales(eigenvalues, gamma, moments.precision)
        # divided by the largest number: float32 has no room for large scales, and cosines do not change
        left, right = _float32(p * scales), _float32(q * scales)
        kept = torch.zeros(len(components), dtype=torch.float64)
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            for at, found in zip(
                order, _found(left[rows], right, [components[at] for at in order], count), strict=True
            ):
                raw = torch.einsum("qd,qnd->qn", unit_queries[rows], unit_base[found])
                kept[at] += (raw >= threshold[rows, None]).sum()
        yield kept / (count * len(queries))


def _found(left: Tensor, right: Tensor, components: Sequence[int], count: int) -> Iterator[Tensor]:
    """Yield for each k, small to large, the indices ``(q, count)`` of the vectors of largest cosine."""
    scores = left.new_zeros(len(left), len(right))
    squares = right.new_zeros(len(right))
    done = 0
    for k in components:
        scores.addmm_(left[:, done:k], right[:, done:k].T)
        squares += right[:, done:k].square().sum(1)
        # a query's own length changes no order
        yield (scores * torch.where(squares > 0, squares.clamp_min(1e-38).rsqrt(), 0.0)).topk(count, dim=1).indices
        done = k


def _float32(vectors: Tensor) -> Tensor:
    return (vectors / vectors.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)).float()


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=1, eps=1e-300).float()
