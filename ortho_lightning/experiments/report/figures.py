"""Accuracies and curves of a comparison's report: small vector graphics, each for a light and for a dark page.

A figure is as wide as a phone, so that its text is legible there, and the page sets several side by side where there
is room. Arms differ by colour, by line and by marker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.measures import accuracy_of, failure_of, finite
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.panel import WIDTH, Drawer, Panel, height_of, side_by_side
from ortho_lightning.experiments.report.style import PLAIN, Style, Theme, drawn_styles, short
from ortho_lightning.experiments.report.svg import SvgFigure, png

_LONG = 26  # characters of a name where there is room


@dataclass(frozen=True)
class Curve:
    """A measure over epochs.

    Args:
        value: its name in the history of a run.
        title: of the figure.
        label: of its axis.
        scale: from the history's unit to the label's.
        random: whether random directions have the value 1.
    """

    value: str
    title: str
    label: str
    scale: float = 1.0
    random: bool = False


ACCURACY = Curve("val_accuracy", "Validation accuracy", "validation accuracy (%)", scale=100.0)
CURVES = (
    ACCURACY,
    Curve("train_loss", "Training loss", "loss"),
    Curve("spread_ratio", "Filter angle std / random", "std / that of random directions", random=True),
    Curve("response_angle_std", "Response angle std", "standard deviation (degrees)"),
)


def difference_figures(comparison: Comparison) -> Iterator[SvgFigure]:
    """Draw the differences of every seed, if there are any; a factorial has figures of its own."""
    for panel in _difference_panel(comparison):
        yield panel.svg()


def curve_figures(comparison: Comparison) -> Iterator[SvgFigure]:
    """Draw the curves over epochs for which there is data."""
    for panel in _curve_panels(comparison, CURVES):
        yield panel.svg()


def accuracy_png(comparison: Comparison) -> bytes | None:
    """Draw the differences of every seed beside the validation accuracy as a PNG on white; None without data."""
    panels = [*_difference_panel(comparison), *_curve_panels(comparison, (ACCURACY,))]
    if not panels:
        return None
    drawn = drawn_styles(comparison.summary)
    draw_panels = side_by_side(panels)

    def draw(figure: Figure, theme: Theme) -> None:
        draw_panels(figure, theme)
        keys = [
            Line2D([], [], marker=style.marker, markersize=3.5, label=short(arm, _LONG), **style.line(theme))
            for arm, style in drawn.items()
        ]
        figure.axes[-1].legend(handles=keys, loc="best", frameon=False)

    return png(draw, (WIDTH * len(panels), max(panel.height for panel in panels)))


def _difference_panel(comparison: Comparison) -> Iterator[Panel]:
    summary = comparison.summary
    if comparison.factorial is None and any(arm.difference for arm in summary.arms):
        yield Panel(
            "Difference of every seed",
            f"Test accuracy minus that of {summary.baseline}, one mark per seed, with mean and interval, by arm",
            lambda axis, theme: _draw_differences(axis, theme, comparison),
            left=0.31,
            height=height_of(len(summary.arms) * (0.42 if any(" " in arm for arm in summary.arm_names) else 0.28)),
        )


def _curve_panels(comparison: Comparison, curves: Sequence[Curve]) -> Iterator[Panel]:
    drawn = drawn_styles(comparison.summary)
    for curve in curves:
        values = {arm: found for arm, found in _values(comparison.runs, curve).items() if arm in drawn}
        if values:
            yield Panel(
                curve.title,
                f"{curve.title} over epochs, mean over seeds with a band from the lowest to the highest, for "
                + ", ".join(values),
                _curve_drawer(curve, values, drawn),
                left=0.15,
            )


def _draw_differences(axis: Axes, theme: Theme, comparison: Comparison) -> None:
    summary = comparison.summary
    baseline = str(summary.baseline)
    drawn = drawn_styles(summary)
    compared = [(arm.arm, arm.difference) for arm in summary.ranked if arm.difference is not None]
    accuracies = _accuracies(comparison.runs)
    for place, (arm, one) in enumerate(compared):
        own, others = accuracies[arm], accuracies[baseline]
        differences = [own[seed] - others[seed] for seed in others if seed in own]
        style = drawn.get(arm, PLAIN)
        colour = style.colour(theme)
        axis.plot(differences, [place + 0.18] * len(differences), style.marker, color=colour, alpha=0.6, markersize=4)
        if one.low is not None and one.high is not None:
            axis.plot([one.low, one.high], [place - 0.12] * 2, color=colour, linewidth=2)
        axis.plot(one.mean, place - 0.12, "|", color=colour, markersize=13, markeredgewidth=2.5)
    axis.axvline(0, color=theme.text, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(compared)), [_in_lines(arm) for arm, _ in compared])
    axis.set_ylim(len(compared) - 0.4, -0.6)
    axis.grid(axis="x", linewidth=0.5)
    axis.set_xlabel(f"test accuracy minus {short(baseline, _LONG)} (points)")


def _in_lines(arm: str) -> str:
    """An arm's name, with what a sweep adds to it on a second line."""
    return "\n".join(short(part) for part in arm.split(" ", 1))


def _accuracies(runs: Sequence[RunRecord]) -> dict[str, dict[int, float]]:
    """Test accuracy in percent by arm and seed, of the finished runs."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        accuracy = accuracy_of(run)
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
                of_arm.setdefault(epoch.epoch + 1, []).append(curve.scale * value)
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
