"""The pictures of a comparison's report: small vector graphics, each on a light and on a dark page.

A picture is as wide as a phone, so that its text is legible there, and the page sets several side by side where there
is room. Arms differ by colour, by line and by marker.
"""

from __future__ import annotations

import io
import math
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
from ortho_lightning.experiments.comparison.statistics import METRIC, failure_of, finite, run_figures
from ortho_lightning.plots import evenly_spaced

MOST_LAYERS = 24
_SIZE = (4.3, 3.0)  # inches; 413 pixels of a page in width

# Okabe and Ito's colours without yellow and black, the ones of most contrast first; the baseline has the text's.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ON_DARK = ("#E8793A", "#56A8E0", "#23B98E", "#DD99BF", "#E69F00", "#9AD2F4")  # the same hues, lighter
_DASHES = ((), (6, 2), (2, 1.5), (7, 2, 2, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Theme:
    """Colours of a page, on which pictures lie without a background of their own."""

    text: str
    grid: str
    colours: tuple[str, ...]


LIGHT = Theme(text="#1c1c1c", grid="#c9c9c9", colours=_COLOURS)
DARK = Theme(text="#ececec", grid="#4a4a4a", colours=_ON_DARK)


@dataclass(frozen=True)
class Picture:
    """A picture in SVG on light and dark ground; ``alt`` says what it shows."""

    title: str
    alt: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Style:
    """How an arm is drawn; ``number`` is its place among the arms, the baseline's is None."""

    number: int | None

    def colour(self, theme: Theme) -> str:
        return theme.text if self.number is None else theme.colours[self.number % len(theme.colours)]

    @property
    def dashes(self) -> tuple[float, ...]:
        return () if self.number is None else _DASHES[(self.number + 1) % len(_DASHES)]

    @property
    def marker(self) -> str:
        return _MARKERS[0 if self.number is None else (self.number + 1) % len(_MARKERS)]

    def line(self, theme: Theme) -> dict[str, Any]:
        return {"color": self.colour(theme), "linestyle": (0, self.dashes) if self.dashes else "-", "linewidth": 1.6}


def styles(summary: Mapping[str, Any]) -> dict[str, Style]:
    """A style for each arm, in the order of the summary."""
    others = [arm["arm"] for arm in summary["arms"] if arm["arm"] != summary["baseline"]]
    return {arm["arm"]: Style(others.index(arm["arm"]) if arm["arm"] in others else None) for arm in summary["arms"]}


def result_pictures(content: Mapping[str, Any]) -> Iterator[Picture]:
    """The differences of every seed, and the curves over epochs; those for which there is data."""
    summary = content["summary"]
    if any(arm["difference"] for arm in summary["arms"]):
        yield _drawn(
            "Difference of every seed",
            f"Test accuracy minus that of {summary['baseline']}, a mark a seed, with the mean and its interval, by arm",
            lambda axis, theme: _draw_differences(axis, theme, content),
            left=0.31,
        )
    for key, title, label, factor in (
        ("val_accuracy", "Validation accuracy", "validation accuracy (%)", 100.0),
        ("train_loss", "Training loss", "loss", 1.0),
        ("spread_ratio", "Angle spread / random", "spread / random", 1.0),
    ):
        curves = _curves(content, key, factor)
        if curves:
            yield _drawn(
                title,
                f"{title} over epochs, mean over seeds with a band from the lowest to the highest, for "
                + ", ".join(curves),
                _curve_drawer(curves, styles(summary), label, reference=key == "spread_ratio"),
                left=0.15,
            )


def layer_pictures(summary: Mapping[str, Any]) -> Iterator[Picture]:
    """The angles of at most 24 layers, evenly picked, beside those of random directions."""
    for layer in shown_layers(summary):
        name = f"{layer['name']} ({layer['k']} filters in {layer['d']} dimensions)"
        yield _drawn(
            layer["name"],
            f"Histogram of the angles between the filters of {name}, after the last epoch, by arm, and the density of "
            "the angles of random directions",
            _layer_drawer(layer, styles(summary)),
            left=0.03,
            top=0.85,
        )


def shown_layers(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers that get a picture."""
    filled = [layer for layer in summary["layers"] if any(sum(one["counts"]) for one in layer["arms"].values())]
    return [filled[i] for i in evenly_spaced(len(filled), MOST_LAYERS)]


Drawer = Callable[[Axes, Theme], None]


def _drawn(title: str, alt: str, draw: Drawer, left: float, top: float = 0.97) -> Picture:
    """``left`` and ``top`` are where the axes begin, as shares of the picture: a layout engine takes half the time."""
    box = (left, 0.16, 0.97 - left, top - 0.16)
    return Picture(title, alt, _svg(draw, LIGHT, box), _svg(draw, DARK, box))


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


def _draw_differences(axis: Axes, theme: Theme, content: Mapping[str, Any]) -> None:
    summary = content["summary"]
    drawn = styles(summary)
    arms = [arm for arm in summary["arms"] if arm["difference"] is not None]
    accuracies = _accuracies(content)
    for place, arm in enumerate(arms):
        own, others = accuracies[arm["arm"]], accuracies[summary["baseline"]]
        differences = [own[seed] - others[seed] for seed in others if seed in own]
        style, one = drawn[arm["arm"]], arm["difference"]
        colour = style.colour(theme)
        axis.plot(differences, [place + 0.18] * len(differences), style.marker, color=colour, alpha=0.6, markersize=4)
        if one["low"] is not None:
            axis.plot([one["low"], one["high"]], [place - 0.12] * 2, color=colour, linewidth=2)
        axis.plot(one["mean"], place - 0.12, "|", color=colour, markersize=13, markeredgewidth=2.5)
    axis.axvline(0, color=theme.text, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(arms)), [short(arm["arm"]) for arm in arms])
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.grid(axis="x", linewidth=0.5)
    axis.set_xlabel(f"test accuracy minus {short(summary['baseline'])} (points)")


def _accuracies(content: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Test accuracy in percent by arm and seed, of the finished runs."""
    found: dict[str, dict[int, float]] = {}
    for run in content["runs"]:
        accuracy = run_figures(run, None)[METRIC] if failure_of(run) is None else None
        if accuracy is not None:
            found.setdefault(run["regularizer"], {})[run["seed"]] = accuracy
    return found


def _curves(content: Mapping[str, Any], key: str, factor: float) -> dict[str, dict[int, list[float]]]:
    """The values of the finished seeds by arm and epoch."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in content["runs"]:
        for epoch in run.get("history") or [] if failure_of(run) is None else []:
            value = finite(epoch.get(key))
            if value is not None:
                of_arm = found.setdefault(run["regularizer"], {})
                of_arm.setdefault(epoch["epoch"] + 1, []).append(factor * value)
    return {arm: dict(sorted(of_arm.items())) for arm, of_arm in found.items()}


def _curve_drawer(
    curves: Mapping[str, Mapping[int, Sequence[float]]], drawn: Mapping[str, Style], label: str, reference: bool
) -> Drawer:
    def draw(axis: Axes, theme: Theme) -> None:
        if reference:
            axis.axhline(1, color=theme.text, linewidth=0.8, linestyle=":")
            axis.annotate("random", (0.995, 1), xycoords=("axes fraction", "data"), xytext=(0, 2),
                          textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
        for arm, of_arm in curves.items():
            epochs, values = list(of_arm), list(of_arm.values())
            style = drawn[arm]
            axis.fill_between(epochs, [min(v) for v in values], [max(v) for v in values],
                              color=style.colour(theme), alpha=0.15, linewidth=0)  # fmt: skip
            axis.plot(epochs, [sum(v) / len(v) for v in values], marker=style.marker, markersize=3.5,
                      markevery=max(1, len(epochs) // 10), **style.line(theme))  # fmt: skip
        axis.grid(linewidth=0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        last = max(epoch for of_arm in curves.values() for epoch in of_arm)
        axis.set_xlim(0.5 if last == 1 else None, 1.5 if last == 1 else None)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)

    return draw


def _layer_drawer(layer: Mapping[str, Any], drawn: Mapping[str, Style]) -> Drawer:
    def draw(axis: Axes, theme: Theme) -> None:
        d = layer["d"]
        if d >= 2:
            degrees = torch.linspace(0.5, 179.5, 359, dtype=torch.float64)
            axis.fill_between(degrees.numpy(), OF.null_density(degrees, d).numpy(), color=theme.grid, alpha=0.7,
                              linewidth=0)  # fmt: skip
        for arm, one in layer["arms"].items():
            counts = _coarser(one["counts"], one["std"])
            if counts.sum() > 0:
                density = counts / counts.sum() * len(counts) / 180
                axis.stairs(density, np.linspace(0, 180, len(counts) + 1), **drawn[arm].line(theme))
        widest = max((one["std"] for one in layer["arms"].values() if one["std"] is not None), default=0.0)
        reach = min(90.0, max(12.0, 4 * OF.null_std(d), 4 * widest))
        axis.set_xlim(90 - reach, 90 + reach)
        axis.set_ylim(bottom=0)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_title(f"{short(layer['name'], 34)}\n{layer['k']} filters, d = {d}", fontsize=9)
        axis.set_xlabel("angle (degrees)")

    return draw


def _coarser(counts: Sequence[int], std: float | None) -> np.ndarray:
    """Bins joined where there are few pairs, until those within two spreads of the middle hold some ten on average."""
    fine = np.asarray(counts, dtype=np.float64)
    factors = [factor for factor in (1, 2, 3, 5) if len(fine) % factor == 0 and len(fine)]
    for factor in factors:
        width = factor * 180 / len(fine)
        if std is None or fine.sum() * width / max(4 * std, width) >= 10 or 2 * width > std:
            return fine.reshape(-1, factor).sum(1)
    return fine.reshape(-1, factors[-1]).sum(1) if factors else fine


def short(text: str, most: int = 16) -> str:
    """A name that fits: its beginning and its end; dollars do not begin a formula."""
    if len(text) > most:
        head = math.ceil((most - 1) / 2)
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return text.replace("$", r"\$")
