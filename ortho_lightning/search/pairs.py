"""Search over beta, gamma and k of a whitening, on pairs with known similarity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import as_tensor
from ortho_lightning.search.checks import checked_grid

_EQUAL = 1e-12  # correlations this close are equal up to rounding


@dataclass(frozen=True)
class GridPoint:
    """Hyper-parameters of a whitening, and the Spearman correlation measured with them."""

    beta: float
    gamma: float
    n_components: int
    spearman: float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Spearman's correlation for every beta, gamma and k of a grid, on the searched pairs.

    Attributes:
        betas: first axis of the grid.
        gammas: second axis.
        components: third axis, values of k.
        spearman: ``(len(betas), len(gammas), len(components))``, float64.
        moments: moments of the vectors that every whitening was fitted on.
    """

    betas: tuple[float, ...]
    gammas: tuple[float, ...]
    components: tuple[int, ...]
    spearman: Tensor
    moments: OF.Moments

    @property
    def best(self) -> GridPoint:
        """The point of the largest correlation; of equal ones that with the fewest components."""
        at = self._best_at()
        beta, gamma, k = at
        return GridPoint(self.betas[beta], self.gammas[gamma], self.components[k], float(self.spearman[at]))

    def _best_at(self) -> tuple[int, int, int]:
        close = (self.spearman >= self.spearman.max() - _EQUAL).nonzero().tolist()
        beta, gamma, k = min(close, key=lambda at: (self.components[at[2]], at))
        return beta, gamma, k

    def whitening(self) -> Whitening:
        """Return the fitted whitening of the best point."""
        best = self.best
        return Whitening.from_moments(self.moments, best.n_components, best.beta, best.gamma)

    def report(self, a: Any, b: Any, scores: Any) -> GridPoint:
        """Return the best point, chosen on the searched pairs, with its correlation on other pairs.

        Args:
            a: first vectors of the pairs, as for :func:`search`.
            b: second vectors of the pairs.
            scores: their similarities.
        """
        best = self.best
        value = score_pairs(a, b, scores, self.moments, best.beta, best.gamma, best.n_components)
        return GridPoint(best.beta, best.gamma, best.n_components, value)

    def table(self) -> list[dict[str, float | int]]:
        """Return a row for each beta and gamma: its best k (the fewest of equal ones) and the correlation there."""
        rows: list[dict[str, float | int]] = []
        for beta, plane in zip(self.betas, self.spearman, strict=True):
            for gamma, line in zip(self.gammas, plane, strict=True):
                close = line >= line.max() - _EQUAL
                reached = [(k, x.item()) for k, x, near in zip(self.components, line, close, strict=True) if near]
                k, value = min(reached)
                rows.append({"beta": beta, "gamma": gamma, "n_components": k, "spearman": value})
        return rows

    def save_picture(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Write a PNG; see ``ortho_lightning.plots.whitening``."""
        from ortho_lightning.plots.whitening import ScoredGrid, save_search_figure

        grid = ScoredGrid(self.betas, self.gammas, self.components, self.spearman, self._best_at())
        save_search_figure(path, grid, title)


def search(
    a: Any,
    b: Any,
    scores: Any,
    betas: Sequence[float],
    gammas: Sequence[float],
    components: Sequence[int] | None = None,
    moments: OF.Moments | None = None,
    progress: bool = False,
) -> SearchResult:
    """Compute Spearman's correlation between cosine and score for a grid of whitenings.

    One eigendecomposition for each beta serves all gammas and k. Pass the development pairs here and the test pairs
    only to :meth:`SearchResult.report`, so that the choice does not depend on them.

    Args:
        a: ``(N, d)`` tensor or array, floating point: the first vector of each pair.
        b: the second vector of each pair, as ``a``.
        scores: ``(N,)`` similarities by people; only their order counts.
        betas: values to try; see :class:`~ortho_lightning.Whitening`.
        gammas: values to try.
        components: values of k to try; None: all from 1 to d.
        moments: moments to fit on, such as ``Whitening().fit(x).moments``; None: those of a and b together.
        progress: show a bar.

    Raises:
        ConfigurationError: for an empty grid or a value outside its range, naming it; for shapes that contradict each
            other, or NaN, naming the pair.

    Example:
        >>> x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> a, b = x[:20], x[20:]
        >>> result = search(a, b, torch.arange(20.0), betas=[0, 1], gammas=[0, 0.5, 1])
        >>> result.spearman.shape
        torch.Size([2, 3, 6])
        >>> result.whitening()(a).shape == (20, result.best.n_components)
        True
    """
    left, right, expected, own = _pairs(a, b, scores)
    fitted = own if moments is None else moments.to("cpu")
    if fitted.d != left.shape[1]:
        raise ConfigurationError(f"pairs of {left.shape[1]} numbers: the moments are of vectors of {fitted.d}")
    ks = checked_grid(betas, gammas, components, fitted.d)
    with (
        tqdm(total=len(betas) * len(gammas), unit=" whitenings", disable=not progress) as bar,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
    ):

        def plane(beta: float) -> Tensor:
            found = []
            for cosines in OF.whitened_cosines(left, right, fitted, beta, gammas, ks):
                found.append(OF.spearman(cosines, expected))
                bar.update()
            return torch.stack(found)

        planes = list(pool.map(plane, betas))
    return SearchResult(tuple(betas), tuple(gammas), ks, torch.stack(planes), fitted)


def score_pairs(
    a: Any, b: Any, scores: Any, moments: OF.Moments, beta: float, gamma: float, n_components: int | None = None
) -> float:
    """Return Spearman's correlation between cosine and score after one whitening; arguments as for :func:`search`."""
    ks = None if n_components is None else [n_components]
    found = search(a, b, scores, [beta], [gamma], ks or [moments.d], moments)
    return float(found.spearman[0, 0, 0])


def raw_score(a: Any, b: Any, scores: Any) -> float:
    """Return Spearman's correlation between cosine and score without whitening."""
    left, right, expected, _ = _pairs(a, b, scores)
    return float(OF.spearman(raw_cosines(left, right), expected))


def raw_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines ``(N,)`` between the rows of ``a`` and ``b`` ``(N, d)``; 0 where one of the two is zero."""
    return torch.nn.functional.cosine_similarity(a, b, eps=0.0).nan_to_num(0.0)


def _pairs(a: Any, b: Any, scores: Any) -> tuple[Tensor, Tensor, Tensor, OF.Moments]:
    left, right = as_tensor(a).cpu().double(), as_tensor(b).cpu().double()
    expected = torch.as_tensor(scores).cpu().double()
    if left.shape != right.shape or left.dim() != 2 or expected.shape != left.shape[:1]:
        raise ConfigurationError(
            f"a {tuple(left.shape)}, b {tuple(right.shape)} and scores {tuple(expected.shape)} must be "
            "(N, d), (N, d) and (N,)"
        )
    if not expected.isfinite().all():
        raise ConfigurationError(f"score {int((~expected.isfinite()).nonzero()[0])} is not a finite number")
    return left, right, expected, OF.Moments.of(left).merge(OF.Moments.of(right))
