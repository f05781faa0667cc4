"""The report as Markdown, without figures."""

from __future__ import annotations

import html

from ortho_lightning.experiments.report import tables
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.settings import settings_table, title
from ortho_lightning.experiments.report.table import Table
from ortho_lightning.tables import markdown_table


def markdown(comparison: Comparison) -> str:
    """Return the report as Markdown."""
    settings, notes = comparison.settings, comparison.notes
    parts = [f"# {_inline(title(comparison))}", _inline(comparison.sentence)]
    for table in tables.all_tables(comparison):
        parts += [f"## {_inline(table.title)}", as_markdown(table), *map(_inline, table.legend)]
        if table.name == "arms" and notes:
            parts += ["## Notes", "\n".join(f"- {_inline(note)}" for note in notes)]
    parts += ["## How it was made", _fenced(settings.command)]
    if settings.commits:
        parts.append("Commit " + ", ".join(_inline(commit) for commit in settings.commits))
    parts.append(as_markdown(settings_table(comparison)))
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
    """Return a table as Markdown."""
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
