"""Choosing beta, gamma and k of a whitening on pairs with known similarity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.files import whole_file
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import as_tensor

_EQUAL = 1e-12  # correlations this close are equal up to rounding


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters of a whitening, and the Spearman correlation that they gave."""

    beta: float
    gamma: float
    n_components: int
    spearman: float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Spearman's correlation for every beta, gamma and k of a grid, on the pairs that were searched.

    Attributes:
        betas, gammas, components: the grid.
        spearman: ``(len(betas), len(gammas), len(components))``, float64.
        moments: what every whitening was fitted on.
    """

    betas: tuple[float, ...]
    gammas: tuple[float, ...]
    components: tuple[int, ...]
    spearman: Tensor
    moments: OF.Moments

    @property
    def best(self) -> Setting:
        """The setting of the largest correlation; of equal ones that of the fewest components."""
        close = (self.spearman >= self.spearman.max() - _EQUAL).nonzero().tolist()
        at_beta, at_gamma, at_k = min(close, key=lambda at: (self.components[at[2]], at))
        value = float(self.spearman[at_beta, at_gamma, at_k])
        return Setting(self.betas[at_beta], self.gammas[at_gamma], self.components[at_k], value)

    def whitening(self) -> Whitening:
        """The best setting's whitening, fitted."""
        best = self.best
        return Whitening.from_moments(self.moments, best.n_components, best.beta, best.gamma)

    def report(self, a: Any, b: Any, scores: Any) -> Setting:
        """The best setting, chosen on the searched pairs, with its correlation on these others.

        Args:
            a, b, scores: pairs that the search has not seen, as for :func:`search`.
        """
        best = self.best
        value = score_pairs(a, b, scores, self.moments, best.beta, best.gamma, best.n_components)
        return Setting(best.beta, best.gamma, best.n_components, value)

    def table(self) -> list[dict[str, float | int]]:
        """A row for each beta and gamma: its best k (the fewest of equal ones) and the correlation there."""
        rows: list[dict[str, float | int]] = []
        for beta, plane in zip(self.betas, self.spearman, strict=True):
            for gamma, line in zip(self.gammas, plane, strict=True):
                close = line >= line.max() - _EQUAL
                reached = [(k, x.item()) for k, x, near in zip(self.components, line, close, strict=True) if near]
                k, value = min(reached)
                rows.append({"beta": beta, "gamma": gamma, "n_components": k, "spearman": value})
        return rows

    def save_picture(self, path: str | os.PathLike[str], title: str = "") -> None:
        """A PNG: the correlation at the best k over beta and gamma, and at the best beta and gamma over k."""
        figure = Figure(figsize=(9.0, 3.9), layout="constrained")
        plane, line = figure.subplots(1, 2, width_ratios=(1.15, 1))
        self._draw_plane(plane)
        self._draw_line(line)
        if title:
            figure.suptitle(title, fontsize=10)
        with whole_file(Path(path)) as temporary:
            figure.savefig(temporary, dpi=110, format="png")

    def _draw_plane(self, axis: Any) -> None:
        best = self.best
        values = 100 * self.spearman.amax(2).numpy()
        image = axis.imshow(values, cmap="cividis", origin="lower", aspect="auto")
        axis.set_xticks(range(len(self.gammas)), [f"{gamma:g}" for gamma in self.gammas], fontsize=7)
        axis.set_yticks(range(len(self.betas)), [f"{beta:g}" for beta in self.betas], fontsize=7)
        axis.set_xlabel("gamma (rescaling)")
        axis.set_ylabel("beta (centring)")
        at = (self.gammas.index(best.gamma), self.betas.index(best.beta))
        axis.plot(*at, marker="o", markersize=9, markerfacecolor="none", color="#D55E00", markeredgewidth=2)
        axis.figure.colorbar(image, ax=axis, label="Spearman x 100 at the best k")

    def _draw_line(self, axis: Any) -> None:
        best = self.best
        chosen = self.spearman[self.betas.index(best.beta), self.gammas.index(best.gamma)]
        axis.plot(self.components, 100 * self.spearman.amax((0, 1)).numpy(), color="#56B4E9", label="best for each k")
        axis.plot(
            self.components,
            100 * chosen.numpy(),
            color="#D55E00",
            linestyle="--",
            label=f"beta = {best.beta:g}, gamma = {best.gamma:g}",
        )
        axis.axvline(best.n_components, color="#444444", linewidth=0.8, linestyle=":", label=f"k = {best.n_components}")
        axis.set_xscale("log", base=2)
        axis.set_xlabel("components k")
        axis.set_ylabel("Spearman x 100")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)


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
    """Spearman's correlation between cosine and score for a whole grid, from one eigendecomposition a beta.

    Give it the development pairs, and the test pairs to :meth:`SearchResult.report` alone: the choice never sees them.

    Args:
        a, b: ``(N, d)`` tensors or arrays, floating point: the vectors of each pair.
        scores: ``(N,)`` similarities by people; only their order counts.
        betas, gammas: values to try; see :class:`~ortho_lightning.Whitening`.
        components: values of k to try; None: every one from 1 to d.
        moments: what to fit on, such as ``Whitening().fit(x).moments``; None: a and b together.
        progress: show a bar.

    Raises:
        ConfigurationError: for an empty grid or a value outside its range, naming it.
        ValueError: for pairs that do not belong together, or NaN, naming the row.

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
        raise ValueError(f"pairs of {left.shape[1]} numbers: the moments are of vectors of {fitted.d}")
    ks = _checked_grid(betas, gammas, components, fitted.d)
    planes = []
    with tqdm(total=len(betas) * len(gammas), unit=" settings", disable=not progress) as bar:
        for beta in betas:
            plane = []
            for cosines in OF.whitened_cosines(left, right, fitted, beta, gammas, ks):
                plane.append(OF.spearman(cosines, expected))
                bar.update()
            planes.append(torch.stack(plane))
    return SearchResult(tuple(betas), tuple(gammas), ks, torch.stack(planes), fitted)


def score_pairs(
    a: Any, b: Any, scores: Any, moments: OF.Moments, beta: float, gamma: float, n_components: int | None = None
) -> float:
    """Spearman's correlation between cosine and score of pairs after one whitening; arguments as :func:`search`."""
    ks = None if n_components is None else [n_components]
    found = search(a, b, scores, [beta], [gamma], ks or [moments.d], moments)
    return float(found.spearman[0, 0, 0])


def raw_score(a: Any, b: Any, scores: Any) -> float:
    """Spearman's correlation between cosine and score of pairs as they are."""
    left, right, expected, _ = _pairs(a, b, scores)
    cosines = torch.nn.functional.cosine_similarity(left, right, eps=0.0)
    return float(OF.spearman(cosines.nan_to_num(0.0), expected))


def _pairs(a: Any, b: Any, scores: Any) -> tuple[Tensor, Tensor, Tensor, OF.Moments]:
    left, right = as_tensor(a).cpu().double(), as_tensor(b).cpu().double()
    expected = torch.as_tensor(scores).cpu().double()
    if left.shape != right.shape or left.dim() != 2 or expected.shape != left.shape[:1]:
        raise ValueError(
            f"a {tuple(left.shape)}, b {tuple(right.shape)} and scores {tuple(expected.shape)} must be "
            "(N, d), (N, d) and (N,)"
        )
    if not expected.isfinite().all():
        raise ValueError(f"score {int((~expected.isfinite()).nonzero()[0])} is not a finite number")
    return left, right, expected, OF.Moments.of(left).merge(OF.Moments.of(right))


def _checked_grid(
    betas: Sequence[float], gammas: Sequence[float], components: Sequence[int] | None, d: int
) -> tuple[int, ...]:
    ks = tuple(range(1, d + 1)) if components is None else tuple(components)
    for name, values in (("betas", betas), ("gammas", gammas), ("components", ks)):
        if len(values) == 0:
            raise ConfigurationError(f"{name}={list(values)}: name at least one")
    for beta in betas:
        for gamma in gammas:
            Whitening(None, beta, gamma)  # refuses what is outside its range
    wrong = [k for k in ks if not isinstance(k, Integral) or not 1 <= k <= d]
    if wrong:
        raise ConfigurationError(f"components={wrong}: must be integers from 1 to {d}")
    return tuple(int(k) for k in ks)
