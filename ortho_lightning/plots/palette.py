"""The one palette of every figure: Okabe and Ito's colours, which colour-blind readers tell apart."""

from __future__ import annotations

# Without yellow and black, strongest contrast first.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# The same hues, lighter, for dark pages.
COLOURS_ON_DARK = ("#E8793A", "#56A8E0", "#23B98E", "#DD99BF", "#E69F00", "#9AD2F4")

ORANGE, BLUE, GREEN, GREY = COLOURS[0], COLOURS[5], COLOURS[2], "#444444"


def colour(number: int) -> str:
    """Return the colour of the ``number``-th line of a figure; they repeat after six."""
    return COLOURS[number % len(COLOURS)]
