"""Search over beta, gamma and k without labels, by the nearest neighbours of the raw vectors that a whitening keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
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

_WIDTHS = 32  # values of k of a first look


@dataclass(frozen=True)
class RecallPoint:
    """Hyper-parameters of a whitening, and the share of true nearest neighbours that is found with them."""

    beta: float
    gamma: float
    n_components: int
    recall: float


@dataclass(frozen=True, eq=False)
class NeighbourSearch:
    """Recall for every beta, gamma and k of a grid, on queries that no whitening was fitted on.

    Attributes:
        betas: first axis of the grid.
        gammas: second axis.
        components: third axis, values of k from small to large.
        recall: ``(len(betas), len(gammas), len(components))``, float64.
        neighbours: number of neighbours that count for each query.
        queries: number of queries.
        base: number of vectors among which the neighbours are searched. With more, they lie closer, and recall is
            lower.
        moments: moments of the vectors that every whitening was fitted on.
    """

    betas: tuple[float, ...]
    gammas: tuple[float, ...]
    components: tuple[int, ...]
    recall: Tensor
    neighbours: int
    queries: int
    base: int
    moments: OF.Moments

    def smallest(self, keep: float) -> RecallPoint:
        """Return the point of fewest components with a recall of ``keep`` or more; of equal ones the best.

        Raises:
            ConfigurationError: if no point reaches it, naming the best.
        """
        reached = (self.recall >= keep).nonzero().tolist()
        if not reached:
            best = float(self.recall.max())
            raise ConfigurationError(f"keep={keep}: no whitening of the grid reaches it; the best recall is {best:.4f}")
        beta, gamma, k = min(reached, key=lambda at: (at[2], -float(self.recall[tuple(at)])))
        return RecallPoint(self.betas[beta], self.gammas[gamma], self.components[k], float(self.recall[beta, gamma, k]))

    def whitening(self, point: RecallPoint) -> Whitening:
        """Return the fitted whitening of a point."""
        return Whitening.from_moments(self.moments, point.n_components, point.beta, point.gamma)

    def table(self) -> list[RecallPoint]:
        """Return every point of the grid."""
        return [
            RecallPoint(beta, gamma, k, float(self.recall[i, j, at]))
            for i, beta in enumerate(self.betas)
            for j, gamma in enumerate(self.gammas)
            for at, k in enumerate(self.components)
        ]

    def save_picture(self, path: str | os.PathLike[str], chosen: RecallPoint | None = None, title: str = "") -> None:
        """Write a PNG of the recall over k; see ``ortho_lightning.plots.recall``."""
        from ortho_lightning.plots.recall import save_recall_figure

        lines = {
            f"beta = {beta:g}, gamma = {gamma:g}": self.recall[i, j].tolist()
            for i, beta in enumerate(self.betas)
            for j, gamma in enumerate(self.gammas)
        }
        mark = None if chosen is None else (chosen.n_components, chosen.recall)
        save_recall_figure(path, self.components, lines, mark, self.neighbours, title)


def search_neighbours(
    base: Any,
    queries: Any,
    betas: Sequence[float] = (0.0,),
    gammas: Sequence[float] = (0.0,),
    components: Sequence[int] | None = None,
    moments: OF.Moments | None = None,
    neighbours: int = 10,
    progress: bool = False,
) -> NeighbourSearch:
    """Compute the recall of a grid of whitenings: the fraction of the raw vectors' nearest neighbours that is kept.

    Neighbours are the vectors of the base with the largest cosine. Copies of a vector count as each other.

    Args:
        base: ``(N, d)`` tensor or array, floating point: the vectors to search among.
        queries: ``(Q, d)``; none of them in the base, nor among the vectors of ``moments``.
        betas: values to try; see :class:`~ortho_lightning.Whitening`.
        gammas: values to try.
        components: values of k to try; None: 32 from 1 to d.
        moments: moments to fit on, such as ``Whitening().fit(x).moments``; None: those of the base.
        neighbours: number of neighbours of a query.
        progress: show a bar.

    Raises:
        ConfigurationError: for an empty grid or a value outside its range, naming it; for fewer vectors than
            neighbours, other shapes, or NaN, naming the row.

    Example:
        >>> x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
        >>> found = search_neighbours(x[20:], x[:20], components=[2, 6])
        >>> found.recall.shape, round(found.smallest(0.95).recall, 3)
        (torch.Size([1, 1, 2]), 1.0)
    """
    vectors, asked = as_tensor(base).cpu(), as_tensor(queries).cpu()
    if vectors.dim() != 2 or asked.dim() != 2 or vectors.shape[1] != asked.shape[1] or not len(asked):
        raise ConfigurationError(
            f"base {tuple(vectors.shape)} and queries {tuple(asked.shape)} must be (N, d) and (Q, d)"
        )
    if not isinstance(neighbours, int) or not 1 <= neighbours <= len(vectors):
        raise ConfigurationError(f"neighbours={neighbours}: must be from 1 to the {len(vectors)} vectors of the base")
    own = OF.Moments.of(vectors)
    OF.Moments.of(asked)  # raises for NaN
    fitted = own if moments is None else moments.to("cpu")
    if fitted.d != vectors.shape[1]:
        raise ConfigurationError(f"vectors of {vectors.shape[1]} numbers: the moments are of vectors of {fitted.d}")
    ks = tuple(sorted(set(checked_grid(betas, gammas, components or spread_widths(fitted.d), fitted.d))))
    planes = []
    with tqdm(total=len(betas) * len(gammas), unit=" whitenings", disable=not progress) as bar:
        for beta in betas:
            plane = []
            for recall in OF.surviving_neighbours(asked, vectors, fitted, beta, gammas, ks, neighbours):
                plane.append(recall)
                bar.update()
            planes.append(torch.stack(plane))
    return NeighbourSearch(
        tuple(betas), tuple(gammas), ks, torch.stack(planes), neighbours, len(asked), len(vectors), fitted
    )


def fewest_components(
    base: Any,
    queries: Any,
    keep: float,
    beta: float = 0.0,
    gamma: float = 0.0,
    moments: OF.Moments | None = None,
    neighbours: int = 10,
    progress: bool = False,
) -> tuple[RecallPoint, NeighbourSearch]:
    """Return the fewest components that keep a share of the nearest neighbours, and the recall at other k.

    First 32 values of k, then every k between the first that reaches ``keep`` and the one before.

    Args:
        base: as for :func:`search_neighbours`.
        queries: as for :func:`search_neighbours`.
        keep: recall to reach, above 0 and at most 1.
        beta: of the whitening.
        gamma: of the whitening.
        moments: as for :func:`search_neighbours`.
        neighbours: as for :func:`search_neighbours`.
        progress: show bars.

    Raises:
        ConfigurationError: as :func:`search_neighbours`; for a ``keep`` outside its range, or that not even all
            components reach.
    """
    check_keep(keep)
    coarse = search_neighbours(base, queries, [beta], [gamma], None, moments, neighbours, progress)
    k = coarse.smallest(keep).n_components
    before = max((other for other in coarse.components if other < k), default=k - 1)
    if k - before < 2:
        return coarse.smallest(keep), coarse
    between = range(before + 1, k)
    fine = search_neighbours(base, queries, [beta], [gamma], between, coarse.moments, neighbours, progress)
    ks = coarse.components + fine.components
    recall = torch.cat([coarse.recall, fine.recall], 2)
    order = sorted(range(len(ks)), key=lambda at: ks[at])
    joined = NeighbourSearch(
        coarse.betas,
        coarse.gammas,
        tuple(ks[at] for at in order),
        recall[:, :, order],
        neighbours,
        coarse.queries,
        coarse.base,
        coarse.moments,
    )
    return joined.smallest(keep), joined


def check_keep(keep: float) -> None:
    """Reject a share of neighbours to keep that is not above 0 and at most 1.

    Raises:
        ConfigurationError: naming the value.
    """
    if not isinstance(keep, (int, float)) or isinstance(keep, bool) or not 0 < keep <= 1:
        raise ConfigurationError(f"keep={keep}: must be a share of the neighbours, above 0 and at most 1, such as 0.95")


def spread_widths(d: int) -> tuple[int, ...]:
    """Return at most 32 values of k from 1 to d: powers of two, and evenly spaced ones."""
    even = {round(d * step / _WIDTHS) for step in range(1, _WIDTHS + 1)} - {0}
    return tuple(sorted(even | {2**power for power in range(d.bit_length()) if 2**power <= d // _WIDTHS} | {1}))
