"""Tables in Markdown, for a terminal and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of cells, aligned for a terminal; the first row is the heading.

    Example:
        >>> print(markdown_table([["layer", "k"], ["net.0", "32"]]))
        | layer | k  |
        |-------|----|
        | net.0 | 32 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
