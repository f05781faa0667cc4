"""A panel of a report's figures, and several of them beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ortho_lightning.experiments.report.style import Theme
from ortho_lightning.experiments.report.svg import FigureDrawer, SvgFigure

WIDTH = 4.3
"""Inches; 413 pixels of a page."""
HEIGHT = 3.0
_BELOW, _ABOVE = 0.48, 0.09  # of the axes, for their labels

Drawer = Callable[[Axes, Theme], None]


@dataclass(frozen=True)
class Panel:
    """Axes of a figure.

    Args:
        title: what it shows, in a few words.
        alt: what it shows, in a sentence.
        draw: draws it.
        left: where the axes begin, as a share of the panel's width: a layout engine takes half the time.
        height: in inches.
    """

    title: str
    alt: str
    draw: Drawer
    left: float
    height: float = HEIGHT

    def svg(self) -> SvgFigure:
        """Return the panel as a figure of its own."""
        return SvgFigure.drawn(self.title, self.alt, side_by_side([self]), (WIDTH, self.height))


def height_of(axes: float) -> float:
    """Return the height of a panel, in inches, whose axes are at least so high."""
    return max(HEIGHT, _BELOW + axes + _ABOVE)


def side_by_side(panels: Sequence[Panel]) -> FigureDrawer:
    """Return what draws panels of equal width beside each other."""

    def draw(figure: Figure, theme: Theme) -> None:
        width, height = 1 / len(panels), figure.get_figheight()
        for place, panel in enumerate(panels):
            axis = figure.add_axes(
                (
                    (place + panel.left) * width,
                    _BELOW / height,
                    (0.97 - panel.left) * width,
                    1 - (_BELOW + _ABOVE) / height,
                )
            )
            axis.set_facecolor("none")
            axis.spines[["top", "right"]].set_visible(False)
            panel.draw(axis, theme)

    return draw
