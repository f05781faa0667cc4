"""Figures of a layer's angles: cosines as a heat map, and histograms of both kinds beside their references."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.plots.palette import BLUE, GREEN, GREY, ORANGE
from ortho_lightning.plots.pixels import DPI, HEAT, MOST_FILTERS, evenly_spaced, pixels
from ortho_lightning.plots.responses import draw_response_references, draw_responses

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


def layer_picture(layer: LayerAngles | None, title: str, responses: OF.ResponseStatistics | None = None) -> np.ndarray:
    """Draw one or both kinds of a layer's angles: cosines as a heat map, and histograms beside their references.

    Args:
        layer: its filter angles; None: response angles only.
        title: of the figure.
        responses: its response angles, of which the figure says so where they have no pairs; None: filter angles only.

    Returns:
        uint8: ``(480, 800, 3)`` of both kinds, ``(340, 800, 3)`` of filter, ``(340, 480, 3)`` of response angles.
    """
    if layer is None and responses is None:
        raise ConfigurationError("layer_picture: both kinds of angle are None, so there is nothing to draw")
    both = layer is not None and responses is not None
    figure = Figure(figsize=(4.8 if layer is None else 8.0, 4.8 if both else 3.4), dpi=DPI)
    if layer is not None:
        heat = figure.add_axes((0.01, 0.07, 0.4, 0.83) if both else (0.01, 0.09, 0.4, 0.78))
        _draw_cosines(heat, layer)
        _draw_filters(figure.add_axes((0.45, 0.58, 0.53, 0.35) if both else (0.45, 0.15, 0.53, 0.72)), layer)
    if responses is not None:
        _draw_responses(figure.add_axes((0.45, 0.1, 0.53, 0.35) if both else (0.03, 0.15, 0.94, 0.72)), responses)
    figure.suptitle(title, fontsize=9, y=0.985)
    return pixels(figure)


def _draw_filters(axis: Axes, layer: LayerAngles) -> None:
    statistics = layer.statistics
    draw_angles(axis, statistics, BLUE, f"{statistics.pairs} pairs")
    draw_references(axis, statistics, layer.k)
    ratio = statistics.std / OF.null_std(statistics.d)
    numbers = f"{statistics.mean:.1f} ± {statistics.std:.1f}; std / random {ratio:.2f} (d = {statistics.d})"
    _finish_panel(axis, f"filter angle in degrees: {numbers}")


def _draw_responses(axis: Axes, statistics: OF.ResponseStatistics) -> None:
    if statistics.pairs == 0:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "response angles: not measured yet", ha="center", va="center", fontsize=8,
                  transform=axis.transAxes)  # fmt: skip
        return
    draw_responses(axis, statistics, GREEN, f"{statistics.pairs} pairs")
    draw_response_references(axis, statistics)
    axis.set_ylim(0, 1.35 * axis.get_ylim()[1])  # wide histograms leave no other place for the legend
    numbers = f"{statistics.mean:.1f} ± {statistics.std:.1f}; {statistics.n} samples"
    _finish_panel(axis, f"response angle in degrees: {numbers}")


def _finish_panel(axis: Axes, label: str) -> None:
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False, loc="upper right")


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
    axis.set_axis_off()  # ticks are what takes the time, and the number of a filter has no meaning
    axis.set_title(f"cosines of {layer.selection}", fontsize=8, pad=3)
    text = f"blue: {-reach:.2g} or less, white: 0, red: {reach:.2g} or more"
    axis.text(0.5, -0.05, text, fontsize=7, ha="center", va="top", transform=axis.transAxes)
