"""The report as one HTML page, which needs no network, no script and no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from ortho_lightning.experiments.comparison.summary import Summary
from ortho_lightning.experiments.report import angles, factors, figures, tables
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.settings import settings_table, title
from ortho_lightning.experiments.report.style import DARK, LIGHT, drawn_styles

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_WITH_INTERVAL = re.compile(r"([+-]?[\d.]+) (\[[-+., \d]+\])")


@dataclass(frozen=True)
class LegendKey:
    """The entry of an arm in the page's legend."""

    name: str
    light: str
    dark: str
    dashes: str


def page(comparison: Comparison) -> str:
    """Return the report as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    environment.filters.update(uri=_data_uri, interval=_interval_below)
    summary = comparison.summary
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title(comparison),
        sentence=comparison.sentence,
        notes=comparison.notes,
        settings=comparison.settings,
        tables={table.name: table for table in tables.all_tables(comparison)},
        settings_table=settings_table(comparison),
        paired=list(figures.difference_figures(comparison)),
        curves=list(figures.curve_figures(comparison)),
        factors=[panel.svg() for panel in factors.panels(comparison.replacements)],
        compared=list(angles.compared_angles(summary)),
        layers=list(angles.layer_angles(summary)),
        layer_count=len(summary.layers),
        arms=list(_legend(summary)),
    )


def _legend(summary: Summary) -> Iterator[LegendKey]:
    for name, style in drawn_styles(summary).items():
        dashes = " ".join(f"{1.6 * length:g}" for length in style.dashes) or "none"
        yield LegendKey(name, style.colour(LIGHT), style.colour(DARK), dashes)


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _interval_below(cell: str) -> Markup:
    """A number with its interval on a line of its own, which makes columns narrow."""
    found = _WITH_INTERVAL.fullmatch(cell)
    return Markup('{} <span class="interval">{}</span>').format(*found.groups()) if found else escape(cell)
