"""The figures of a comparison's report: small vector graphics, each for a light and for a dark page.

A figure is as wide as a phone, so that its text is legible there, and the page sets several side by side where there
is room. Arms differ by colour, by line and by marker.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ortho_lightning import functional as OF
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.measures import METRIC, failure_of, finite, run_measures
from ortho_lightning.experiments.comparison.summary import LayerSummary, Summary
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.style import DARK, LIGHT, Style, Theme, short, styles
from ortho_lightning.plots import evenly_spaced

MOST_LAYERS = 24
_SIZE = (4.3, 3.0)  # inches; 413 pixels of a page in width

Drawer = Callable[[Axes, Theme], None]


@dataclass(frozen=True)
class SvgFigure:
    """A figure in SVG for light and dark pages; ``alt`` says what it shows."""

    title: str
    alt: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Curve:
    """A measure over epochs.

    Args:
        value: its name in the history of a run.
        title: of the figure.
        label: of its axis.
        factor: from the history's unit to the label's.
        random: whether random directions have the value 1.
    """

    value: str
    title: str
    label: str
    factor: float = 1.0
    random: bool = False


CURVES = (
    Curve("val_accuracy", "Validation accuracy", "validation accuracy (%)", factor=100.0),
    Curve("train_loss", "Training loss", "loss"),
    Curve("spread_ratio", "Angle spread / random", "spread / random", random=True),
    Curve("response_angle_std", "Response angle std", "standard deviation (degrees)"),
)


def result_figures(comparison: Comparison) -> Iterator[SvgFigure]:
    """Draw the differences of every seed, and the curves over epochs; those for which there is data."""
    summary = comparison.summary
    if any(arm.difference for arm in summary.arms):
        yield _drawn(
            "Difference of every seed",
            f"Test accuracy minus that of {summary.baseline}, a mark a seed, with the mean and its interval, by arm",
            lambda axis, theme: _draw_differences(axis, theme, comparison),
            left=0.31,
        )
    for curve in CURVES:
        values = _values(comparison.runs, curve)
        if values:
            yield _drawn(
                curve.title,
                f"{curve.title} over epochs, mean over seeds with a band from the lowest to the highest, for "
                + ", ".join(values),
                _curve_drawer(curve, values, styles(summary.arm_names, summary.baseline)),
                left=0.15,
            )


def layer_figures(summary: Summary) -> Iterator[SvgFigure]:
    """Draw the angles of at most 24 layers, evenly picked, beside those of random directions."""
    for layer in shown_layers(summary):
        name = f"{layer.name} ({layer.k} filters in {layer.d} dimensions)"
        yield _drawn(
            layer.name,
            f"Histogram of the angles between the filters of {name}, after the last epoch, by arm, and the density of "
            "the angles of random directions",
            _layer_drawer(layer, styles(summary.arm_names, summary.baseline)),
            left=0.03,
            top=0.85,
        )


def shown_layers(summary: Summary) -> list[LayerSummary]:
    """Return the layers that get a figure."""
    filled = [layer for layer in summary.layers if any(sum(one.counts) for one in layer.arms.values())]
    return [filled[i] for i in evenly_spaced(len(filled), MOST_LAYERS)]


def _drawn(title: str, alt: str, draw: Drawer, left: float, top: float = 0.97) -> SvgFigure:
    """``left`` and ``top`` are where the axes begin, as shares of the figure: a layout engine takes half the time."""
    box = (left, 0.16, 0.97 - left, top - 0.16)
    return SvgFigure(title, alt, _svg(draw, LIGHT, box), _svg(draw, DARK, box))


def _svg(draw: Drawer, theme: Theme, box: tuple[float, float, float, float]) -> bytes:
    """The same bytes for the same drawing: no date, and names of parts that do not depend on chance."""
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.text)
    options: Any = {**colours, "axes.edgecolor": theme.grid, "grid.color": theme.grid, "font.size": 9.0,
               "svg.hashsalt": "ortho-lightning", "svg.fonttype": "path"}  # fmt: skip
    with matplotlib.rc_context(options):
        figure = Figure(figsize=_SIZE)
        axis = figure.add_axes(box)
        axis.set_facecolor("none")
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, theme)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _draw_differences(axis: Axes, theme: Theme, comparison: Comparison) -> None:
    summary = comparison.summary
    baseline = str(summary.baseline)
    drawn = styles(summary.arm_names, baseline)
    compared = [(arm.arm, arm.difference) for arm in summary.arms if arm.difference is not None]
    accuracies = _accuracies(comparison.runs)
    for place, (arm, one) in enumerate(compared):
        own, others = accuracies[arm], accuracies[baseline]
        differences = [own[seed] - others[seed] for seed in others if seed in own]
        style = drawn[arm]
        colour = style.colour(theme)
        axis.plot(differences, [place + 0.18] * len(differences), style.marker, color=colour, alpha=0.6, markersize=4)
        if one.low is not None and one.high is not None:
            axis.plot([one.low, one.high], [place - 0.12] * 2, color=colour, linewidth=2)
        axis.plot(one.mean, place - 0.12, "|", color=colour, markersize=13, markeredgewidth=2.5)
    axis.axvline(0, color=theme.text, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(compared)), [short(arm) for arm, _ in compared])
    axis.set_ylim(len(compared) - 0.4, -0.6)
    axis.grid(axis="x", linewidth=0.5)
    axis.set_xlabel(f"test accuracy minus {short(baseline)} (points)")


def _accuracies(runs: Sequence[RunRecord]) -> dict[str, dict[int, float]]:
    """Test accuracy in percent by arm and seed, of the finished runs."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        accuracy = run_measures(run, None)[METRIC] if failure_of(run) is None else None
        if accuracy is not None:
            found.setdefault(run.regularizer, {})[run.seed] = accuracy
    return found


def _values(runs: Sequence[RunRecord], curve: Curve) -> dict[str, dict[int, list[float]]]:
    """The values of the finished seeds by arm and epoch."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for epoch in run.history if failure_of(run) is None else ():
            value = finite(epoch.values.get(curve.value))
            if value is not None:
                of_arm = found.setdefault(run.regularizer, {})
                of_arm.setdefault(epoch.epoch + 1, []).append(curve.factor * value)
    return {arm: dict(sorted(of_arm.items())) for arm, of_arm in found.items()}


def _curve_drawer(
    curve: Curve, values: Mapping[str, Mapping[int, Sequence[float]]], drawn: Mapping[str, Style]
) -> Drawer:
    def draw(axis: Axes, theme: Theme) -> None:
        if curve.random:
            axis.axhline(1, color=theme.text, linewidth=0.8, linestyle=":")
            axis.annotate("random", (0.995, 1), xycoords=("axes fraction", "data"), xytext=(0, 2),
                          textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
        for arm, of_arm in values.items():
            epochs, seeds = list(of_arm), list(of_arm.values())
            style = drawn[arm]
            axis.fill_between(epochs, [min(v) for v in seeds], [max(v) for v in seeds],
                              color=style.colour(theme), alpha=0.15, linewidth=0)  # fmt: skip
            axis.plot(epochs, [sum(v) / len(v) for v in seeds], marker=style.marker, markersize=3.5,
                      markevery=max(1, len(epochs) // 10), **style.line(theme))  # fmt: skip
        axis.grid(linewidth=0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        last = max(epoch for of_arm in values.values() for epoch in of_arm)
        axis.set_xlim(0.5 if last == 1 else None, 1.5 if last == 1 else None)
        axis.set_xlabel("epoch")
        axis.set_ylabel(curve.label)

    return draw


def _layer_drawer(layer: LayerSummary, drawn: Mapping[str, Style]) -> Drawer:
    def draw(axis: Axes, theme: Theme) -> None:
        d = layer.d
        if d >= 2:
            degrees = torch.linspace(0.5, 179.5, 359, dtype=torch.float64)
            axis.fill_between(degrees.numpy(), OF.null_density(degrees, d).numpy(), color=theme.grid, alpha=0.7,
                              linewidth=0)  # fmt: skip
        deviations = {arm: one.measures["std"] for arm, one in layer.arms.items()}
        for arm, one in layer.arms.items():
            counts = _coarser(one.counts, deviations[arm])
            if counts.sum() > 0:
                density = counts / counts.sum() * len(counts) / 180
                axis.stairs(density, np.linspace(0, 180, len(counts) + 1), **drawn[arm].line(theme))
        widest = max((std for std in deviations.values() if std is not None), default=0.0)
        reach = min(90.0, max(12.0, 4 * OF.null_std(d), 4 * widest))
        axis.set_xlim(90 - reach, 90 + reach)
        axis.set_ylim(bottom=0)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_title(f"{short(layer.name, 34)}\n{layer.k} filters, d = {d}", fontsize=9)
        axis.set_xlabel("angle (degrees)")

    return draw


def _coarser(counts: Sequence[int], std: float | None) -> np.ndarray:
    """Bins joined where there are few pairs, until those within two deviations of the middle hold ten on average."""
    fine = np.asarray(counts, dtype=np.float64)
    factors = [factor for factor in (1, 2, 3, 5) if len(fine) % factor == 0 and len(fine)]
    for factor in factors:
        width = factor * 180 / len(fine)
        if std is None or fine.sum() * width / max(4 * std, width) >= 10 or 2 * width > std:
            return fine.reshape(-1, factor).sum(1)
    return fine.reshape(-1, factors[-1]).sum(1) if factors else fine
