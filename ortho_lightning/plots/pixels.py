"""Figures as RGB pixels, and the filters and colours that heat maps share."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_FILTERS = 256  # of a heat map or grid, evenly spaced: a pixel or more each
DPI = 100
HEAT = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#BBBBBB")


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, the first among them, in order.

    Example:
        >>> evenly_spaced(10, 4)
        [0, 2, 5, 7]
    """
    return [count * i // most for i in range(most)] if count > most else list(range(count))


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure and return it as ``(height, width, 3)``, uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
