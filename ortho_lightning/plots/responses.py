"""Histograms of response angles in a figure, and what they are compared with: independent responses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ortho_lightning import functional as OF
from ortho_lightning.plots.palette import GREY


def fill_steps(counts: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """Return a histogram without the gaps that come from n samples, with the same total.

    n samples give the n + 1 angles ``180 j / n`` only. Bins hold more of them or fewer, which looks like a comb, most
    of all where n is small. Here each of these angles is spread evenly over the step around it.

    Args:
        counts: pairs in equal bins over [0, 180] degrees.
        n: number of samples.

    Example:
        >>> fill_steps([4, 0, 0, 8], 1)  # 0 or 180 degrees
        array([2., 2., 4., 4.])
    """
    found = np.asarray(counts, dtype=np.float64)
    edges = np.linspace(0, 180, len(found) + 1)
    angles = np.arange(n + 1) * (180 / n)
    places = np.minimum(np.searchsorted(edges, angles + 1e-6, side="right") - 1, len(found) - 1)
    shares = found / np.maximum(np.bincount(places, minlength=len(found)), 1)
    cumulative = np.concatenate([[0.0], np.cumsum(shares[places])])
    ends = np.clip(np.arange(n + 2) * (180 / n) - 90 / n, 0, 180)
    # where rounding put an angle on the other side of an edge its bin seems to have none: then nothing is changed
    return np.diff(np.interp(edges, ends, cumulative)) if math.isclose(cumulative[-1], found.sum()) else found


def draw_responses(axis: Axes, statistics: OF.ResponseStatistics, colour: str, label: str) -> None:
    """Draw the histogram of a layer's response angles as a density."""
    counts = fill_steps(statistics.counts.numpy(), statistics.n)
    density = counts / statistics.pairs * len(counts) / 180
    edges = np.linspace(0, 180, len(counts) + 1)
    axis.stairs(density, edges, fill=True, alpha=0.55, color=colour, label=label)


def draw_response_references(axis: Axes, *drawn: OF.ResponseStatistics) -> None:
    """Draw 90 degrees with one sampling error of independent responses, in a range that holds all histograms.

    Args:
        axis: to draw in.
        drawn: what the histograms are of, with samples; the fewest samples decide how wide the band is.
    """
    error = 90.0 / math.sqrt(min(statistics.n for statistics in drawn))
    axis.axvspan(
        90 - error, 90 + error, color=GREY, alpha=0.2, linewidth=0, label="independent responses, ± sampling error"
    )
    axis.axvline(90, color=GREY, linewidth=1, linestyle="--")
    # they need not lie around 90 degrees: outputs that share their sign have small angles
    reach = max(25.0, *(abs(statistics.mean - 90) + 3 * statistics.std for statistics in drawn))
    axis.set_xlim(max(0.0, 90 - reach), min(180.0, 90 + reach))
    axis.set_yticks([])
