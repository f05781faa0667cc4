"""The appearance of arms in a report: colour, line and marker on a light and on a dark page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ortho_lightning.experiments.comparison.summary import Summary
from ortho_lightning.plots.palette import COLOURS, COLOURS_ON_DARK

MOST_ARMS = 8
"""With lines of their own in a figure; more cannot be told apart."""

_DASHES = ((), (6, 2), (2, 1.5), (7, 2, 2, 2))
_KEY = re.compile(r"(?<= )[^ =]+=")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Theme:
    """Colours of a page, on which figures lie without a background of their own."""

    text: str
    grid: str
    colours: tuple[str, ...]


LIGHT = Theme(text="#1c1c1c", grid="#c9c9c9", colours=COLOURS)
DARK = Theme(text="#ececec", grid="#4a4a4a", colours=COLOURS_ON_DARK)


@dataclass(frozen=True)
class Style:
    """The style of an arm; ``number`` is its place among the arms, None without a colour of its own."""

    number: int | None

    def colour(self, theme: Theme) -> str:
        """Return the colour; without a number the text's."""
        return theme.text if self.number is None else theme.colours[self.number % len(theme.colours)]

    @property
    def dashes(self) -> tuple[float, ...]:
        """Lengths of dashes and gaps; none for a solid line."""
        return () if self.number is None else _DASHES[(self.number + 1) % len(_DASHES)]

    @property
    def marker(self) -> str:
        """Matplotlib's name of the marker."""
        return _MARKERS[0 if self.number is None else (self.number + 1) % len(_MARKERS)]

    def line(self, theme: Theme) -> dict[str, Any]:
        """Return matplotlib's properties of a line."""
        return {"color": self.colour(theme), "linestyle": (0, self.dashes) if self.dashes else "-", "linewidth": 1.6}


PLAIN = Style(None)


def styles(arms: Sequence[str], baseline: str | None) -> dict[str, Style]:
    """Return a style for each arm."""
    others = [arm for arm in arms if arm != baseline]
    return {arm: Style(others.index(arm)) if arm in others else PLAIN for arm in arms}


def drawn_styles(summary: Summary) -> dict[str, Style]:
    """Return a style for each arm that has lines in the figures: the baseline and the best, in the runs' order."""
    best = {arm.arm for arm in summary.ranked[:MOST_ARMS]}
    return styles([arm for arm in summary.arm_names if arm in best], summary.baseline)


def short(text: str, most: int = 20) -> str:
    """Return a name that fits: without the keys of its settings, and then its beginning and its end.

    Dollars do not begin a formula.
    """
    if len(text) > most:
        text = _KEY.sub("", text)
    if len(text) > most:
        head = math.ceil((most - 1) / 2)
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return text.replace("$", r"\$")
