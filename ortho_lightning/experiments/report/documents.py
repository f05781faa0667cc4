"""The report of a comparison: a page for people, Markdown for a repository, a table for programs."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ortho_lightning.experiments.comparison.findings import listed
from ortho_lightning.experiments.comparison.runs import flat
from ortho_lightning.experiments.comparison.statistics import failure_of, finite, run_figures
from ortho_lightning.experiments.report import figures, tables
from ortho_lightning.experiments.report.tables import Content, Table
from ortho_lightning.files import whole_file, write_csv
from ortho_lightning.tables import markdown_table

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_WITH_INTERVAL = re.compile(r"([+-]?[\d.]+) (\[[-+., \d]+\])")
_TOLD_APART = ("command", "commits")  # settings that have a place of their own


def write_report(folder: Path, content: Content) -> None:
    """Write ``report.html``, ``report.md`` and ``results.csv`` into ``folder``, each whole or not at all.

    The page needs no network, no script and no other file. The same content gives the same bytes.

    Args:
        folder: made if it does not exist.
        content: the comparison's ``results.json``: settings, runs, summary and costs.
    """
    texts = {"report.html": page(content), "report.md": markdown(content)}
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    write_csv(folder / "results.csv", flat_runs(content))


def main_table(content: Content) -> str:
    """The arms side by side in Markdown, for a terminal or a README."""
    return _markdown(tables.main(content))


def flat_runs(content: Content) -> list[dict[str, Any]]:
    """A row a run with its scalars: accuracies in percent, epochs from 1; a failed one has its reason."""
    rows = []
    for run in content["runs"]:
        row = {"regularizer": run["regularizer"], "seed": run["seed"], "failure": failure_of(run)}
        if row["failure"] is None:
            row.update(run_figures(run, content["summary"]["target"]))
            row.update({key: finite(run.get(key)) for key in ("step_ms", "steps")})
        rows.append(row)
    return rows


def title(content: Content) -> str:
    arms = [str(arm["arm"]) for arm in content["summary"]["arms"]]
    return f"{content['settings'].get('experiment', 'comparison')}: {listed(arms) if arms else 'no arms'}"


def settings_table(content: Content) -> Table:
    """How it was made, a row a setting; nested ones by their path."""
    rows = [[key, _value(value)] for key, value in flat(content["settings"]).items() if key not in _TOLD_APART]
    return Table("settings", "Settings and machine", ["setting", "value"], rows)


def markdown(content: Content) -> str:
    """The report without pictures."""
    summary, settings = content["summary"], content["settings"]
    parts = [f"# {_inline(title(content))}", _inline(summary["sentence"])]
    for table in tables.all_tables(content):
        parts += [f"## {_inline(table.title)}", _markdown(table), *map(_inline, table.legend)]
        if table.name == "arms" and summary["notes"]:
            parts += ["## Notes", "\n".join(f"- {_inline(note)}" for note in summary["notes"])]
    parts += ["## How it was made", _fenced(str(settings.get("command", "")))]
    if settings.get("commits"):
        parts.append("Commit " + ", ".join(_inline(str(commit)) for commit in settings["commits"]))
    parts.append(_markdown(settings_table(content)))
    return "\n\n".join(parts) + "\n"


def page(content: Content) -> str:
    """The report as one HTML file."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    environment.filters.update(uri=_data_uri, interval=_interval_below)
    summary = content["summary"]
    layers = list(figures.layer_pictures(summary))
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title(content),
        summary=summary,
        settings=content["settings"],
        tables={table.name: table for table in tables.all_tables(content)},
        settings_table=settings_table(content),
        results=list(figures.result_pictures(content)),
        layers=layers,
        layer_count=len(summary["layers"]),
        arms=list(_keys(summary)),
    )


def _keys(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the page's legend shows of each arm."""
    for name, style in figures.styles(summary).items():
        yield {
            "name": name,
            "light": style.colour(figures.LIGHT),
            "dark": style.colour(figures.DARK),
            "dashes": " ".join(f"{1.6 * length:g}" for length in style.dashes) or "none",
        }


def _data_uri(picture: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture).decode("ascii")


def _interval_below(cell: str) -> Markup:
    """A figure with its interval on a line of its own, which makes columns narrow."""
    figure = _WITH_INTERVAL.fullmatch(cell)
    return Markup('{} <span class="interval">{}</span>').format(*figure.groups()) if figure else escape(cell)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return tables.MISSING if value is None else value if isinstance(value, str) else json.dumps(value)


def _markdown(table: Table) -> str:
    return markdown_table(
        [[_inline(cell).replace("|", "\\|") for cell in row] for row in [table.headings, *table.rows]]
    )


def _inline(text: str) -> str:
    """On one line, and without what a renderer would take for HTML."""
    return html.escape(" ".join(text.split()), quote=False)


def _fenced(text: str) -> str:
    """A block of code, within a fence that is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
