"""Samples of a layer's outputs at a low cost.

:func:`tap` in a forward hook (or :func:`sample_outputs`, the plain form of it) and :func:`as_samples` after it give the
outputs without bias, ``(groups, n, k)``, at positions spread evenly over the batch and the map, which move with a seed.
"""

from ortho_lightning.layers.sampling.inputs import (
    SampledInputs,
    Taken,
    can_compute_again,
    outputs_from_inputs,
    sample_inputs,
)
from ortho_lightning.layers.sampling.options import Sampling
from ortho_lightning.layers.sampling.positions import draws_of
from ortho_lightning.layers.sampling.tap import (
    as_samples,
    channels,
    covers_all_filters,
    element_of,
    only_a_part,
    sample_outputs,
    single_tensor,
    tap,
)

__all__ = [
    "SampledInputs",
    "Sampling",
    "Taken",
    "as_samples",
    "can_compute_again",
    "channels",
    "covers_all_filters",
    "draws_of",
    "element_of",
    "only_a_part",
    "outputs_from_inputs",
    "sample_inputs",
    "sample_outputs",
    "single_tensor",
    "tap",
]
