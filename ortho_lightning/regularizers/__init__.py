"""Regularizers: small objects that choose a penalty and its options."""

from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.anchored import Anchored
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.diversity import Diversity
from ortho_lightning.regularizers.gram import Gram
from ortho_lightning.regularizers.lsh import LSH
from ortho_lightning.regularizers.orthonormal import Orthonormal
from ortho_lightning.regularizers.view import LayerView

__all__ = [
    "LSH",
    "Anchored",
    "Diversity",
    "Gram",
    "LayerView",
    "Orthonormal",
    "Regularizer",
    "Sampling",
]
