"""Tensors in, tensors out: the formulas, without modules, state or trainer."""

from ortho_lightning.functional.angles import (
    AngleStatistics,
    angle_statistics,
    null_density,
    null_std,
    pairwise_angles,
    pairwise_cosines,
    welch_floor,
)
from ortho_lightning.functional.closed_form import fast_gram_penalty, fast_lsh_penalties
from ortho_lightning.functional.gram import gram_penalty
from ortho_lightning.functional.lsh import (
    lsh_active_fraction,
    lsh_penalties,
    lsh_penalty,
    lsh_penalty_floor,
    lsh_similarity,
    lsh_similarity_exact,
    lsh_statistics,
    over_groups,
    rms_normalize,
    similarity_from_statistics,
    similarity_penalty,
)

__all__ = [
    "AngleStatistics",
    "angle_statistics",
    "fast_gram_penalty",
    "fast_lsh_penalties",
    "gram_penalty",
    "lsh_active_fraction",
    "lsh_penalties",
    "lsh_penalty",
    "lsh_penalty_floor",
    "lsh_similarity",
    "lsh_similarity_exact",
    "lsh_statistics",
    "null_density",
    "null_std",
    "over_groups",
    "pairwise_angles",
    "pairwise_cosines",
    "rms_normalize",
    "similarity_from_statistics",
    "similarity_penalty",
    "welch_floor",
]
