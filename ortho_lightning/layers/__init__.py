"""Layers as filters: which are meant, what their filters are, and samples of their outputs.

Which modules hold filters is a registry, open to users: :func:`register`.
"""

from ortho_lightning.layers import package_layers, torch_layers
from ortho_lightning.layers.filters import effective_weight, filter_counts, layer_filters
from ortho_lightning.layers.kernels import Columns, Kernel, Outputs, Rows
from ortho_lightning.layers.parts import Part, part_of, parts_of
from ortho_lightning.layers.registry import register
from ortho_lightning.layers.selection import Layers, OutputsOf, select_layers, select_parts

__all__ = [
    "Columns",
    "Kernel",
    "Layers",
    "Outputs",
    "OutputsOf",
    "Part",
    "Rows",
    "effective_weight",
    "filter_counts",
    "layer_filters",
    "package_layers",
    "part_of",
    "parts_of",
    "register",
    "select_layers",
    "select_parts",
    "torch_layers",
]
