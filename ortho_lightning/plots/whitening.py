"""Figures of whitenings: the search over hyper-parameters, and the spectra of vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.files import whole_file
from ortho_lightning.plots.palette import BLUE, GREY, ORANGE, colour

_DPI = 110


@dataclass(frozen=True, eq=False)
class ScoredGrid:
    """Scores of a grid of hyper-parameters.

    Attributes:
        betas: first axis of the grid.
        gammas: second axis.
        components: third axis.
        spearman: correlations, ``(len(betas), len(gammas), len(components))``.
        best: indices of the chosen entry.
    """

    betas: Sequence[float]
    gammas: Sequence[float]
    components: Sequence[int]
    spearman: Tensor
    best: tuple[int, int, int]


def save_search_figure(path: str | os.PathLike[str], grid: ScoredGrid, title: str = "") -> None:
    """Write a PNG of a search: the score over beta and gamma at the best k, and over k.

    Args:
        path: of the file.
        grid: the scores.
        title: of the figure; "": none.
    """
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    plane, line = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_plane(plane, grid)
    _draw_line(line, grid)
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _draw_plane(axis: Axes, grid: ScoredGrid) -> None:
    values = 100 * grid.spearman.amax(2).numpy()
    image = axis.imshow(values, cmap="cividis", origin="lower", aspect="auto")
    axis.set_xticks(range(len(grid.gammas)), [f"{gamma:g}" for gamma in grid.gammas], fontsize=7)
    axis.set_yticks(range(len(grid.betas)), [f"{beta:g}" for beta in grid.betas], fontsize=7)
    axis.set_xlabel("gamma (rescaling)")
    axis.set_ylabel("beta (centring)")
    beta, gamma, _ = grid.best
    axis.plot(gamma, beta, marker="o", markersize=9, markerfacecolor="none", color=ORANGE, markeredgewidth=2)
    axis.figure.colorbar(image, ax=axis, label="Spearman x 100 at the best k")


def _draw_line(axis: Axes, grid: ScoredGrid) -> None:
    beta, gamma, k = grid.best
    chosen = grid.spearman[beta, gamma]
    label = f"beta = {grid.betas[beta]:g}, gamma = {grid.gammas[gamma]:g}"
    axis.plot(grid.components, 100 * grid.spearman.amax((0, 1)).numpy(), color=BLUE, label="best for each k")
    axis.plot(grid.components, 100 * chosen.numpy(), color=ORANGE, linestyle="--", label=label)
    axis.axvline(grid.components[k], color=GREY, linewidth=0.8, linestyle=":", label=f"k = {grid.components[k]}")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("components k")
    axis.set_ylabel("Spearman x 100")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def save_spectrum_figure(path: str | os.PathLike[str], moments: Mapping[str, OF.Moments]) -> None:
    """Write a PNG of spectra: the share of variance of each component, and the cumulative shares.

    Args:
        path: of the file.
        moments: of each set of vectors, by name.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    shares_axis, sums_axis = figure.subplots(1, 2)
    for number, (name, found) in enumerate(moments.items()):
        spectrum, _ = OF.principal_axes(found, beta=1.0)
        shares = (spectrum / spectrum.sum().clamp_min(1e-300)).numpy()
        kept = OF.numerical_rank(spectrum)
        components = np.arange(1, len(shares) + 1)
        label = f"{name}: effective rank {OF.effective_rank(spectrum):.0f} of {found.d}"
        shares_axis.plot(components[:kept], shares[:kept], color=colour(number), label=label)
        sums_axis.plot(components, 100 * shares.cumsum(), color=colour(number))
    shares_axis.set_yscale("log")
    shares_axis.set_ylabel("share of the variance")
    sums_axis.set_ylabel("kept variance (%)")
    sums_axis.set_ylim(0, 101)
    for axis in (shares_axis, sums_axis):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("component")
        axis.grid(alpha=0.3)
    shares_axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with whole_file(Path(path)) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")
