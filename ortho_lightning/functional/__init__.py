"""Formulas on tensors, without modules, state or trainer."""

from ortho_lightning.functional.angles import (
    AngleStatistics,
    angle_statistics,
    null_density,
    null_std,
    pairwise_angles,
    pairwise_cosines,
    welch_floor,
)
from ortho_lightning.functional.gram import gram_penalty
from ortho_lightning.functional.lsh import (
    lsh_active_fraction,
    lsh_penalties,
    lsh_penalty,
    lsh_penalty_floor,
    lsh_similarity,
    lsh_similarity_exact,
    lsh_statistics,
    rms_normalize,
    similarity_from_statistics,
    similarity_penalty,
)
from ortho_lightning.functional.moments import Moments, Tails, WeightSums
from ortho_lightning.functional.neighbours import nearest, surviving_neighbours
from ortho_lightning.functional.responses import (
    ResponseStatistics,
    response_angles,
    response_similarity,
    response_statistics,
)
from ortho_lightning.functional.shrinkage import ledoit_wolf
from ortho_lightning.functional.similarity import spearman, whitened_cosines
from ortho_lightning.functional.whitening import (
    effective_rank,
    mean_cosine,
    numerical_rank,
    principal_axes,
    unit_sum,
    whitening_scales,
)

__all__ = [
    "AngleStatistics",
    "Moments",
    "ResponseStatistics",
    "Tails",
    "WeightSums",
    "angle_statistics",
    "effective_rank",
    "gram_penalty",
    "ledoit_wolf",
    "lsh_active_fraction",
    "lsh_penalties",
    "lsh_penalty",
    "lsh_penalty_floor",
    "lsh_similarity",
    "lsh_similarity_exact",
    "lsh_statistics",
    "mean_cosine",
    "nearest",
    "null_density",
    "null_std",
    "numerical_rank",
    "pairwise_angles",
    "pairwise_cosines",
    "principal_axes",
    "response_angles",
    "response_similarity",
    "response_statistics",
    "rms_normalize",
    "similarity_from_statistics",
    "similarity_penalty",
    "spearman",
    "surviving_neighbours",
    "unit_sum",
    "welch_floor",
    "whitened_cosines",
    "whitening_scales",
]
