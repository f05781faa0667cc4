"""Pictures of filters and of the angles between them, as RGB pixels or in axes of one's own.

Drawn on figures without pyplot, so that nothing global is touched: they may be drawn from any one thread and leave
nothing open. A picture takes some tens of milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ortho_lightning import functional as OF

MOST_FILTERS = 256  # of a heat-map or grid, evenly spaced: a pixel or more each

# Blue and orange of Okabe and Ito's palette, told apart by colour-blind readers.
BLUE, ORANGE, GREY = "#56B4E9", "#D55E00", "#444444"
_TIMES_RANDOM = 6  # where the colours end
_COLOURS = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#BBBBBB")
_DPI = 100


@dataclass(frozen=True)
class LayerAngles:
    """What a picture of a layer shows, on the CPU, so that it can be drawn while training goes on.

    ``cosines`` is ``(groups shown, filters shown, filters shown)``; groups and k are those of the layer.
    """

    cosines: Tensor
    statistics: OF.AngleStatistics
    groups: int
    k: int

    @classmethod
    def of(cls, kernel: Tensor, statistics: OF.AngleStatistics) -> LayerAngles:
        """Of a kernel ``(groups, k, d)``: at most 256 filters, in whole groups where the groups are smaller."""
        groups, k, _ = kernel.shape
        filters = evenly_spaced(k, MOST_FILTERS)
        shown = evenly_spaced(groups, max(MOST_FILTERS // len(filters), 1))
        part = kernel.detach()[shown][:, filters]
        return cls(OF.pairwise_cosines(part).cpu(), statistics, groups, k)

    @property
    def selection(self) -> str:
        """Which filters are shown, in words."""
        shown, filters, _ = self.cosines.shape
        text = "all" if filters == self.k else f"{filters} of"
        text += f" {self.k} filters" + (", evenly spaced" if filters < self.k else "")
        if self.groups > 1:
            text += f", in {'all' if shown == self.groups else f'{shown} of'} {self.groups} groups"
        return text


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, the first among them, in order.

    Example:
        >>> evenly_spaced(10, 4)
        [0, 2, 5, 7]
    """
    return [count * i // most for i in range(most)] if count > most else list(range(count))


def draw_angles(axis: Axes, statistics: OF.AngleStatistics, colour: str, label: str) -> None:
    """The histogram of a layer's angles as a density."""
    bins = len(statistics.counts)
    density = statistics.counts.numpy() / statistics.pairs * bins / 180
    axis.stairs(density, np.linspace(0, 180, bins + 1), fill=True, alpha=0.55, color=colour, label=label)


def draw_references(axis: Axes, statistics: OF.AngleStatistics, k: int | None = None) -> None:
    """The density of random directions and, where k is known, Welch's floor, in a range that holds all of them."""
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
    """The heat-map of the cosines between a layer's filters beside the histogram of their angles.

    Returns:
        ``(340, 800, 3)``, uint8.
    """
    statistics = layer.statistics
    figure = Figure(figsize=(8.0, 3.4), dpi=_DPI)
    heat = figure.add_axes((0.01, 0.09, 0.4, 0.78))
    _draw_cosines(heat, layer)
    axis = figure.add_axes((0.45, 0.15, 0.53, 0.72))
    draw_angles(axis, statistics, BLUE, f"{statistics.pairs} pairs")
    draw_references(axis, statistics, layer.k)
    ratio = statistics.std / OF.null_std(statistics.d)
    figures = f"{statistics.mean:.1f} ± {statistics.std:.1f}; spread / random {ratio:.2f} (d = {statistics.d})"
    axis.set_xlabel(f"angle in degrees: {figures}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False, loc="upper right")
    figure.suptitle(title, fontsize=9, y=0.985)
    return _pixels(figure)


def _draw_cosines(axis: Axes, layer: LayerAngles) -> None:
    groups, filters, _ = layer.cosines.shape
    # filters of different groups never meet, and one's cosine with itself says nothing
    matrix = np.full((groups * filters, groups * filters), np.nan, dtype=np.float32)
    for group, cosines in enumerate(layer.cosines.numpy()):
        here = slice(group * filters, (group + 1) * filters)
        matrix[here, here] = cosines
    np.fill_diagonal(matrix, np.nan)
    # The same at every epoch, and seen against chance: the rms cosine of random directions is 1 / sqrt(d).
    reach = min(_TIMES_RANDOM / math.sqrt(layer.statistics.d), 1.0)
    axis.imshow(matrix, cmap=_COLOURS, vmin=-reach, vmax=reach, interpolation="nearest", aspect="auto")
    axis.set_axis_off()  # ticks are what takes the time, and the number of a filter tells nothing
    axis.set_title(f"cosines of {layer.selection}", fontsize=8, pad=3)
    text = f"blue: {-reach:.2g} or less, white: 0, red: {reach:.2g} or more"
    axis.text(0.5, -0.05, text, fontsize=7, ha="center", va="top", transform=axis.transAxes)


def filter_picture(weight: Tensor, title: str, of: int | None = None) -> np.ndarray:
    """The filters of a layer as a grid of tiles; those without three or one image channels as rows of numbers.

    Args:
        weight: ``(k, c, h, w)`` of a convolution over images, or ``(k, ...)``. Each filter is scaled by its own largest
            number, so that grey (tiles) or white (rows) is zero.
        title: of the picture.
        of: how many filters the layer has, if ``weight`` is a selection of :func:`evenly_spaced` ones.

    Returns:
        ``(420, 420, 3)``, uint8.
    """
    kept = evenly_spaced(len(weight), MOST_FILTERS)
    filters = weight.detach()[kept].float().cpu()
    scaled = filters / filters.flatten(1).abs().amax(1).clamp_min(1e-30).reshape(-1, *[1] * (filters.dim() - 1))
    figure = Figure(figsize=(4.2, 4.2), dpi=_DPI)
    axis = figure.add_axes((0.03, 0.03, 0.94, 0.86))
    axis.set_axis_off()
    if filters.dim() == 4 and filters.shape[1] in (1, 3):
        axis.imshow(_tiles(scaled.numpy()), interpolation="nearest")
        shape = "x".join(map(str, filters.shape[1:]))
    else:
        options: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
        axis.imshow(scaled.flatten(1).numpy(), cmap=_COLOURS, vmin=-1, vmax=1, **options)
        shape = f"{filters[0].numel()} numbers, a row each"
    of = len(weight) if of is None else of
    selection = f"{len(kept)} of {of} filters, evenly spaced" if len(kept) < of else f"all {of} filters"
    figure.suptitle(f"{title}\n{selection}, of {shape}", fontsize=9, y=0.985)
    return _pixels(figure)


def _tiles(filters: np.ndarray) -> np.ndarray:
    """Filters ``(k, c, h, w)`` in [-1, 1] as one RGB image in [0, 1], white lines between them."""
    k, _, h, w = filters.shape
    columns = math.ceil(math.sqrt(k))
    rows = math.ceil(k / columns)
    image = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, 3), dtype=np.float32)
    for number, one in enumerate(filters):
        top, left = (number // columns) * (h + 1), (number % columns) * (w + 1)
        image[top : top + h, left : left + w] = 0.5 + 0.5 * one.transpose(1, 2, 0)
    return image


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
