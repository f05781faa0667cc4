"""Panels of a report's figures: the histograms of one layer and one kind of angle, a line for each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes

from ortho_lightning import functional as OF
from ortho_lightning.experiments.comparison.summary import LayerOfArm, LayerSummary
from ortho_lightning.experiments.report.style import Style, Theme, short
from ortho_lightning.plots import fill_steps

LINE = 0.155
"""Inches of a line of a panel's text."""

Styles = Mapping[str, Style]
PanelDrawer = Callable[[Axes, Theme, LayerSummary, Styles], None]


@dataclass(frozen=True)
class Histogram:
    """The angles of one arm, all seeds together: pairs in equal bins, and their standard deviation."""

    counts: np.ndarray
    std: float | None


def draw_filter_angles(axis: Axes, theme: Theme, layer: LayerSummary, drawn: Styles) -> None:
    """Draw the filter angles of each arm on the density of random directions."""
    found = {arm: Histogram(np.asarray(one.counts), one.measures["std"]) for arm, one in _of(layer, drawn)}
    widest = max((one.std for one in found.values() if one.std is not None), default=0.0)
    low, high = _set_range(axis, 4 * max(OF.null_std(layer.d), widest))
    peak = 0.0
    if layer.d >= 2:
        degrees = torch.linspace(max(low, 0.5), min(high, 179.5), 121, dtype=torch.float64)
        density = OF.null_density(degrees, layer.d).numpy()
        axis.fill_between(degrees.numpy(), density, color=theme.grid, alpha=0.7, linewidth=0)
        peak = density.max()
    _draw_arms(axis, theme, found, drawn, peak)
    axis.set_xlabel("filter angle (degrees)")


def draw_response_angles(axis: Axes, theme: Theme, layer: LayerSummary, drawn: Styles) -> None:
    """Draw the response angles of each arm with a line at 90 degrees."""
    measured = {arm: one for arm, one in _of(layer, drawn) if one.response_counts}
    found = {arm: Histogram(_without_gaps(one), one.measures["response_std"]) for arm, one in measured.items()}
    reaches = [_reach(one.measures["response_mean"], one.measures["response_std"]) for one in measured.values()]
    _set_range(axis, max(reaches, default=90.0))
    axis.axvline(90, color=theme.text, linewidth=0.8, linestyle=":")
    _draw_arms(axis, theme, found, drawn)
    if not found:
        axis.text(0.5, 0.5, "not measured", ha="center", fontsize=8, transform=axis.transAxes)
    axis.set_xlabel("response angle (degrees)")


def _of(layer: LayerSummary, drawn: Styles) -> Iterator[tuple[str, LayerOfArm]]:
    """The arms of a layer that are drawn."""
    return ((arm, one) for arm, one in layer.arms.items() if arm in drawn)


def _without_gaps(one: LayerOfArm) -> np.ndarray:
    samples = one.measures.get("response_samples")
    if samples is None or samples < 1 or not samples.is_integer():  # unknown, or seeds with different numbers
        return np.asarray(one.response_counts)
    return fill_steps(one.response_counts, int(samples))


def coarser(counts: Sequence[int] | np.ndarray, std: float | None) -> np.ndarray:
    """Join bins where there are few pairs, until those within two deviations of the middle hold 30 on average."""
    fine = np.asarray(counts, dtype=np.float64)
    factors = [factor for factor in (1, 2, 3, 5) if len(fine) % factor == 0 and len(fine)]
    for factor in factors:
        width = factor * 180 / len(fine)
        if std is None or fine.sum() * width / max(4 * std, width) >= 30 or 2 * width > std:
            return fine.reshape(-1, factor).sum(1)
    return fine.reshape(-1, factors[-1]).sum(1) if factors else fine


def _reach(mean: float | None, std: float | None) -> float:
    """How far angles lie from 90 degrees; response angles need not lie around it."""
    return 90.0 if mean is None or std is None else abs(mean - 90) + 3 * std


def _set_range(axis: Axes, reach: float) -> tuple[float, float]:
    reach = min(90.0, max(12.0, reach))
    return axis.set_xlim(90 - reach, 90 + reach)


def _draw_arms(axis: Axes, theme: Theme, found: Mapping[str, Histogram], drawn: Styles, peak: float = 0.0) -> None:
    """Draw a line for each arm, and the standard deviations in a strip above all lines and above ``peak``."""
    rows = 0
    for arm, one in found.items():
        counts = coarser(one.counts, one.std)
        if counts.sum() == 0:
            continue
        density = counts / counts.sum() * len(counts) / 180
        peak = max(peak, density.max())
        axis.stairs(density, np.linspace(0, 180, len(counts) + 1), label=arm, **drawn[arm].line(theme))
        if one.std is not None:
            axis.annotate(f"{short(arm)}: std {one.std:.1f}°", (1, 1), xytext=(0, -72 * LINE * rows), ha="right",
                          va="top", xycoords="axes fraction", textcoords="offset points", fontsize=8,
                          color=drawn[arm].colour(theme))  # fmt: skip
            rows += 1
    strip = rows * LINE * axis.figure.dpi / axis.bbox.height
    axis.set_ylim(0, max(peak, 1e-9) / max(0.95 - strip, 0.2))
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
