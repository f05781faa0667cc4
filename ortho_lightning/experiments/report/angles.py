"""Both kinds of angle after training: of a few layers side by side, and of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ortho_lightning.experiments.comparison.summary import LayerSummary, Summary
from ortho_lightning.experiments.report.panels import (
    LINE,
    PanelDrawer,
    Styles,
    draw_filter_angles,
    draw_response_angles,
)
from ortho_lightning.experiments.report.style import Theme, drawn_styles, short
from ortho_lightning.experiments.report.svg import FigureDrawer, Size, SvgFigure, png
from ortho_lightning.plots import evenly_spaced

MOST_LAYERS = 24
MOST_COLUMNS = 4
_WIDTH = 2.5  # inches, as all sizes here
_TITLE, _LABELS, _SIDE = 0.4, 0.5, 0.12
_LAYER_WIDTH = 4.3  # 413 pixels of a page


def compared_angles(summary: Summary) -> Iterator[SvgFigure]:
    """Draw both kinds of angle of at most four layers side by side, for a page; nothing where there are no angles."""
    layers = _picked(summary, MOST_COLUMNS)
    if layers:
        alt = (
            "Histograms of filter angles and, below, of response angles after the last epoch, by arm, of "
            + ", ".join(layer.name for layer in layers)
            + "; filter angles with the density of random directions, response angles with a line at 90 degrees"
        )
        yield SvgFigure.drawn("Angles after training", alt, *_side_by_side(summary, layers))


def compared_angles_png(summary: Summary) -> bytes | None:
    """Draw the same as a PNG on white; None where there are no angles."""
    layers = _picked(summary, MOST_COLUMNS)
    return png(*_side_by_side(summary, layers)) if layers else None


def layer_angles(summary: Summary) -> Iterator[SvgFigure]:
    """Draw both kinds of angle of at most 24 layers, evenly picked, a figure a layer."""
    drawn = drawn_styles(summary)
    for layer in shown_layers(summary):
        kinds = _kinds([layer])
        name = f"{layer.name} ({layer.k} filters in {layer.d} dimensions)"
        alt = f"Histogram of the angles between the filters of {name}, after the last epoch, by arm, and the density "
        alt += "of the angles of random directions" + ("; below, the response angles" if len(kinds) > 1 else "")
        yield SvgFigure.drawn(layer.name, alt, *_of_layer(layer, kinds, drawn))


def shown_layers(summary: Summary) -> list[LayerSummary]:
    """Return the layers that get a figure of their own."""
    return _picked(summary, MOST_LAYERS)


def _picked(summary: Summary, most: int) -> list[LayerSummary]:
    """At most so many of the layers with angles, evenly spaced."""
    filled = [layer for layer in summary.layers if any(sum(one.counts) for one in layer.arms.values())]
    return [filled[i] for i in evenly_spaced(len(filled), most)]


def _kinds(layers: Sequence[LayerSummary]) -> list[PanelDrawer]:
    """What draws a row of panels: one of each kind that any of the layers has."""
    measured = any(one.response_counts for layer in layers for one in layer.arms.values())
    return [draw_filter_angles, draw_response_angles] if measured else [draw_filter_angles]


def _side_by_side(summary: Summary, layers: Sequence[LayerSummary]) -> tuple[FigureDrawer, Size]:
    """A column a layer and a row a kind, below a legend of the arms and references."""
    drawn = drawn_styles(summary)
    kinds = _kinds(layers)
    panel = 1.3 + LINE * len(drawn)
    width = _WIDTH * len(layers)
    legend = 0.2 * math.ceil((len(drawn) + 2) / _legend_columns(width)) + 0.15
    size = (width, legend + _TITLE + (panel + _LABELS) * len(kinds))

    def draw(figure: Figure, theme: Theme) -> None:
        for column, layer in enumerate(layers):
            left, top = _WIDTH * column + _SIDE, size[1] - legend - _TITLE
            for kind in kinds:
                axis = _panel(figure, (left, top - panel, _WIDTH - 2 * _SIDE, panel))
                kind(axis, theme, layer, drawn)
                if kind is kinds[0]:
                    _entitle(axis, layer, 30)
                top -= panel + _LABELS
        _draw_legend(figure, theme, drawn, len(kinds) > 1)

    return draw, size


def _of_layer(layer: LayerSummary, kinds: Sequence[PanelDrawer], drawn: Styles) -> tuple[FigureDrawer, Size]:
    """A row a kind, below the layer's name."""
    panel = 1.6 + LINE * len(drawn)
    size = (_LAYER_WIDTH, _TITLE + (panel + _LABELS) * len(kinds))

    def draw(figure: Figure, theme: Theme) -> None:
        for row, kind in enumerate(kinds):
            bottom = size[1] - _TITLE - panel * (row + 1) - _LABELS * row
            axis = _panel(figure, (_SIDE, bottom, _LAYER_WIDTH - 2 * _SIDE, panel))
            kind(axis, theme, layer, drawn)
            if row == 0:
                _entitle(axis, layer, 34)

    return draw, size


def _panel(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes at a place in inches: a layout engine takes half the time of a figure."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = box
    axis = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axis.set_facecolor("none")
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def _entitle(axis: Axes, layer: LayerSummary, most: int) -> None:
    axis.set_title(f"{short(layer.name, most)}\n{layer.k} filters, d = {layer.d}", fontsize=9)


def _draw_legend(figure: Figure, theme: Theme, drawn: Styles, responses: bool) -> None:
    entries: list[Artist] = [Line2D([], [], label=short(arm), **style.line(theme)) for arm, style in drawn.items()]
    entries.append(Patch(color=theme.grid, alpha=0.7, linewidth=0, label="random directions"))
    if responses:
        entries.append(Line2D([], [], color=theme.text, linewidth=0.8, linestyle=":", label="90°"))
    ncols = _legend_columns(figure.get_figwidth())
    figure.legend(handles=entries, loc="upper center", ncols=ncols, frameon=False)


def _legend_columns(width: float) -> int:
    return max(int(width / 1.9), 1)
