"""Figures of a layer's filters, as tiles or as rows of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ortho_lightning.plots.pixels import DPI, HEAT, MOST_FILTERS, evenly_spaced, pixels


def filter_picture(weight: Tensor, title: str, of: int | None = None) -> np.ndarray:
    """Draw the filters of a layer as a grid of tiles, or as rows of numbers without three or one image channels.

    Args:
        weight: ``(k, c, h, w)`` of a convolution over images, or ``(k, ...)``. Each filter is scaled by its own largest
            number, so that grey (tiles) or white (rows) is zero.
        title: title of the figure.
        of: how many filters the layer has, if ``weight`` is a selection of :func:`evenly_spaced` ones.

    Returns:
        ``(420, 420, 3)``, uint8.
    """
    kept = evenly_spaced(len(weight), MOST_FILTERS)
    filters = weight.detach()[kept].float().cpu()
    scaled = filters / filters.flatten(1).abs().amax(1).clamp_min(1e-30).reshape(-1, *[1] * (filters.dim() - 1))
    figure = Figure(figsize=(4.2, 4.2), dpi=DPI)
    axis = figure.add_axes((0.03, 0.03, 0.94, 0.86))
    axis.set_axis_off()
    if filters.dim() == 4 and filters.shape[1] in (1, 3):
        axis.imshow(_tiles(scaled.numpy()), interpolation="nearest")
        shape = "x".join(map(str, filters.shape[1:]))
    else:
        options: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
        axis.imshow(scaled.flatten(1).numpy(), cmap=HEAT, vmin=-1, vmax=1, **options)
        shape = f"{filters[0].numel()} numbers, a row each"
    of = len(weight) if of is None else of
    selection = f"{len(kept)} of {of} filters, evenly spaced" if len(kept) < of else f"all {of} filters"
    figure.suptitle(f"{title}\n{selection}, of {shape}", fontsize=9, y=0.985)
    return pixels(figure)


def _tiles(filters: np.ndarray) -> np.ndarray:
    """Return filters ``(k, c, h, w)`` in [-1, 1] as one RGB image in [0, 1], with white lines between them."""
    k, _, h, w = filters.shape
    columns = math.ceil(math.sqrt(k))
    rows = math.ceil(k / columns)
    image = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, 3), dtype=np.float32)
    for number, one in enumerate(filters):
        top, left = (number // columns) * (h + 1), (number % columns) * (w + 1)
        image[top : top + h, left : left + w] = 0.5 + 0.5 * one.transpose(1, 2, 0)
    return image
