"""A table of a report, and how its numbers are written. Rounding happens here."""

from __future__ import annotations

from dataclasses import dataclass, field

from ortho_lightning.experiments.comparison.inference import Estimate

MISSING = "-"


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of each row names it."""

    name: str
    title: str
    headings: list[str]
    rows: list[list[str]]
    legend: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """Return a rounded number."""
    return MISSING if value is None else f"{value:{sign}.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 2, sign: str = "") -> str:
    """Return a number and its interval: ``"75.20 [74.90, 75.50]"``; without brackets where there is no interval."""
    text = number(value, digits, sign)
    return text if low is None else f"{text} [{number(low, digits, sign)}, {number(high, digits, sign)}]"


def estimate(one: Estimate, digits: int = 2) -> str:
    """Return a mean and its interval."""
    return interval(one.mean, one.low, one.high, digits)


def p_value(p: float | None) -> str:
    """Return a p value."""
    if p is None:
        return MISSING
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
