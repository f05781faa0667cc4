"""Formulas on tensors, without modules, state or trainer."""

from ortho_lightning.functional._precision import off_diagonal
from ortho_lightning.functional.angles import (
    AngleStatistics,
    angle_statistics,
    null_density,
    null_std,
    pairwise_angles,
    pairwise_cosines,
    welch_floor,
)
from ortho_lightning.functional.convolution import self_convolution
from ortho_lightning.functional.covariance import correlation, covariance
from ortho_lightning.functional.cross import cross_gram_penalty, group_similarity
from ortho_lightning.functional.energy import hyperspherical_energy, koleo
from ortho_lightning.functional.gram import gram_matrix, gram_penalty
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
from ortho_lightning.functional.orthonormality import orthonormality_distance
from ortho_lightning.functional.power_iteration import spectral_norm
from ortho_lightning.functional.responses import (
    ResponseStatistics,
    response_angles,
    response_similarity,
    response_statistics,
)
from ortho_lightning.functional.shrinkage import ledoit_wolf
from ortho_lightning.functional.similarity import spearman, whitened_cosines
from ortho_lightning.functional.spectra import (
    SpectrumStatistics,
    dead_filters,
    singular_values,
    spectrum_statistics,
    stable_rank,
)
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
    "SpectrumStatistics",
    "Tails",
    "WeightSums",
    "angle_statistics",
    "correlation",
    "covariance",
    "cross_gram_penalty",
    "dead_filters",
    "effective_rank",
    "gram_matrix",
    "gram_penalty",
    "group_similarity",
    "hyperspherical_energy",
    "koleo",
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
    "off_diagonal",
    "orthonormality_distance",
    "pairwise_angles",
    "pairwise_cosines",
    "principal_axes",
    "response_angles",
    "response_similarity",
    "response_statistics",
    "rms_normalize",
    "self_convolution",
    "similarity_from_statistics",
    "similarity_penalty",
    "singular_values",
    "spearman",
    "spectral_norm",
    "spectrum_statistics",
    "stable_rank",
    "surviving_neighbours",
    "unit_sum",
    "welch_floor",
    "whitened_cosines",
    "whitening_scales",
]
