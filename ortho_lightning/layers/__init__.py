"""Layers as filters: which are meant, what their filters are, and samples of their outputs."""

from ortho_lightning.layers.filters import effective_weight, filter_counts, layer_filters
from ortho_lightning.layers.selection import Layers, select_layers

__all__ = ["Layers", "effective_weight", "filter_counts", "layer_filters", "select_layers"]
