"""Figures of filters and of the angles between them, as RGB pixels or in axes of your own.

They are drawn without pyplot, so that nothing global is touched: any one thread may draw them, and nothing stays open.
A figure takes some tens of milliseconds.
"""

from ortho_lightning.plots.angles import LayerAngles, draw_angles, draw_references, layer_picture
from ortho_lightning.plots.filters import filter_picture
from ortho_lightning.plots.histogram import histogram_picture
from ortho_lightning.plots.palette import BLUE, COLOURS, COLOURS_ON_DARK, GREY, ORANGE, colour
from ortho_lightning.plots.pixels import MOST_FILTERS, evenly_spaced
from ortho_lightning.plots.responses import draw_response_references, draw_responses, fill_steps

__all__ = [
    "BLUE",
    "COLOURS",
    "COLOURS_ON_DARK",
    "GREY",
    "MOST_FILTERS",
    "ORANGE",
    "LayerAngles",
    "colour",
    "draw_angles",
    "draw_references",
    "draw_response_references",
    "draw_responses",
    "evenly_spaced",
    "fill_steps",
    "filter_picture",
    "histogram_picture",
    "layer_picture",
]
