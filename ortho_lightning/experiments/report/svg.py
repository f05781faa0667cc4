"""Figures of a report as bytes: SVG for a light and a dark page, and PNG for everything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ortho_lightning.experiments.report.style import DARK, LIGHT, Theme

PIXELS = 96
"""Pixels of a page to an inch of a figure."""
_PNG_DPI = 200

Size = tuple[float, float]
FigureDrawer = Callable[[Figure, Theme], None]


@dataclass(frozen=True)
class SvgFigure:
    """A figure in SVG for light and dark pages; ``alt`` says what it shows, the size is in pixels of the page."""

    title: str
    alt: str
    light: bytes
    dark: bytes
    width: int
    height: int

    @classmethod
    def drawn(cls, title: str, alt: str, draw: FigureDrawer, size: Size) -> SvgFigure:
        """Draw a figure of a size in inches."""
        width, height = (round(PIXELS * inches) for inches in size)
        return cls(title, alt, _svg(draw, LIGHT, size), _svg(draw, DARK, size), width, height)


def png(draw: FigureDrawer, size: Size) -> bytes:
    """Return a figure of a size in inches as PNG on white; the same bytes for the same drawing."""
    return _bytes(draw, LIGHT, size, format="png", dpi=_PNG_DPI, facecolor="white")


def _svg(draw: FigureDrawer, theme: Theme, size: Size) -> bytes:
    """The same bytes for the same drawing: no date, and names of parts that do not depend on chance."""
    return _bytes(draw, theme, size, format="svg", transparent=True, metadata={"Date": None})


def _bytes(draw: FigureDrawer, theme: Theme, size: Size, **options: Any) -> bytes:
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.text)
    settings: Any = {**colours, "axes.edgecolor": theme.grid, "grid.color": theme.grid, "font.size": 9.0,
                "svg.hashsalt": "ortho-lightning", "svg.fonttype": "path"}  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        draw(figure, theme)
        file = io.BytesIO()
        figure.savefig(file, **options)
    return file.getvalue()
