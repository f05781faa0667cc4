"""Figures of a layer's angles: cosines as a heat map, and the histogram beside random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.plots.palette import BLUE, GREY, ORANGE
from ortho_lightning.plots.pixels import DPI, HEAT, MOST_FILTERS, evenly_spaced, pixels

_TIMES_RANDOM = 6  # where the colours end


@dataclass(frozen=True)
class LayerAngles:
    """Content of a layer's figure, on the CPU, so that it can be drawn while training goes on.

    ``cosines`` is ``(groups shown, filters shown, filters shown)``; groups and k are those of the layer.
    """

    cosines: Tensor
    statistics: OF.AngleStatistics
    groups: int
    k: int

    @classmethod
    def of(cls, kernel: Tensor, statistics: OF.AngleStatistics) -> LayerAngles:
        """Select from a kernel ``(groups, k, d)`` at most 256 filters, in whole groups where the groups are smaller."""
        groups, k, _ = kernel.shape
        filters = evenly_spaced(k, MOST_FILTERS)
        shown = evenly_spaced(groups, max(MOST_FILTERS // len(filters), 1))
        part = kernel.detach()[shown][:, filters]
        return cls(OF.pairwise_cosines(part).cpu(), statistics, groups, k)

    @property
    def selection(self) -> str:
        """The filters shown, in words."""
        shown, filters, _ = self.cosines.shape
        text = "all" if filters == self.k else f"{filters} of"
        text += f" {self.k} filters" + (", evenly spaced" if filters < self.k else "")
        if self.groups > 1:
            text += f", in {'all' if shown == self.groups else f'{shown} of'} {self.groups} groups"
        return text


def draw_angles(axis: Axes, statistics: OF.AngleStatistics, colour: str, label: str) -> None:
    """Draw the histogram of a layer's angles as a density."""
    bins = len(statistics.counts)
    density = statistics.counts.numpy() / statistics.pairs * bins / 180
    axis.stairs(density, np.linspace(0, 180, bins + 1), fill=True, alpha=0.55, color=colour, label=label)


def draw_references(axis: Axes, statistics: OF.AngleStatistics, k: int | None = None) -> None:
    """Draw the density of random directions and, where k is known, Welch's floor, in a range that holds all."""
    d = statistics.d
    if d >= 2:
        degrees = torch.linspace(0.5, 179.5, 359, dtype=torch.float64)
        density = OF.null_density(degrees, d)
        axis.plot(degrees, density, color=GREY, linewidth=1, linestyle="--", label="random directions")
    if k is not None:
        floor = OF.welch_floor(k, d)
        width = math.degrees(math.asin(floor))
        text = f"Welch floor, ±{width:.1f}° rms" if floor > 0 else "Welch floor: right angles"
        for edge in {90 - width, 90 + width}:
            axis.axvline(edge, color=ORANGE, linewidth=1, label=text)
            text = ""
    reach = max(25.0, 4 * OF.null_std(d), 4 * statistics.std)
    axis.set_xlim(max(0.0, 90 - reach), min(180.0, 90 + reach))
    axis.set_yticks([])


def layer_picture(layer: LayerAngles, title: str) -> np.ndarray:
    """Draw the cosines between a layer's filters as a heat map, beside the histogram of their angles.

    Returns:
        ``(340, 800, 3)``, uint8.
    """
    statistics = layer.statistics
    figure = Figure(figsize=(8.0, 3.4), dpi=DPI)
    heat = figure.add_axes((0.01, 0.09, 0.4, 0.78))
    _draw_cosines(heat, layer)
    axis = figure.add_axes((0.45, 0.15, 0.53, 0.72))
    draw_angles(axis, statistics, BLUE, f"{statistics.pairs} pairs")
    draw_references(axis, statistics, layer.k)
    ratio = statistics.std / OF.null_std(statistics.d)
    figures = f"{statistics.mean:.1f} ± {statistics.std:.1f}; std / random {ratio:.2f} (d = {statistics.d})"
    axis.set_xlabel(f"angle in degrees: {figures}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False, loc="upper right")
    figure.suptitle(title, fontsize=9, y=0.985)
    return pixels(figure)


def _draw_cosines(axis: Axes, layer: LayerAngles) -> None:
    groups, filters, _ = layer.cosines.shape
    # filters of different groups have no angle, and a filter's cosine with itself says nothing
    matrix = np.full((groups * filters, groups * filters), np.nan, dtype=np.float32)
    for group, cosines in enumerate(layer.cosines.numpy()):
        here = slice(group * filters, (group + 1) * filters)
        matrix[here, here] = cosines
    np.fill_diagonal(matrix, np.nan)
    # The same at every epoch, and in units of chance: the rms cosine of random directions is 1 / sqrt(d).
    reach = min(_TIMES_RANDOM / math.sqrt(layer.statistics.d), 1.0)
    axis.imshow(matrix, cmap=HEAT, vmin=-reach, vmax=reach, interpolation="nearest", aspect="auto")
    axis.set_axis_off()  # ticks are what takes the time, and the number of a filter tells nothing
    axis.set_title(f"cosines of {layer.selection}", fontsize=8, pad=3)
    text = f"blue: {-reach:.2g} or less, white: 0, red: {reach:.2g} or more"
    axis.text(0.5, -0.05, text, fontsize=7, ha="center", va="top", transform=axis.transAxes)
