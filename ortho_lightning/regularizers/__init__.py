"""Regularizers: small objects that choose a penalty and its options."""

from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.anchored import Anchored
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.comparisons import (
    Comparison,
    Correlation,
    Cosines,
    Covariance,
    InnerProducts,
    LSHSimilarity,
    SelfConvolution,
)
from ortho_lightning.regularizers.diversity import Diversity
from ortho_lightning.regularizers.gram import Gram
from ortho_lightning.regularizers.lsh import LSH
from ortho_lightning.regularizers.orthonormal import Orthonormal
from ortho_lightning.regularizers.pairwise import PairwisePenalty
from ortho_lightning.regularizers.recipes import (
    DSO,
    KoLeo,
    barlow,
    decov,
    gram_normalized,
    mc,
    mhe,
    ocnn,
    orthoreg,
    srip,
    vicreg_cov,
)
from ortho_lightning.regularizers.reductions import (
    Energy,
    Frobenius,
    Maximum,
    MeanAndSquares,
    Reduction,
    SoftCosines,
    SpectralNorm,
    Squares,
)
from ortho_lightning.regularizers.view import LayerView

__all__ = [
    "DSO",
    "LSH",
    "Anchored",
    "Comparison",
    "Correlation",
    "Cosines",
    "Covariance",
    "Diversity",
    "Energy",
    "Frobenius",
    "Gram",
    "InnerProducts",
    "KoLeo",
    "LSHSimilarity",
    "LayerView",
    "Maximum",
    "MeanAndSquares",
    "Orthonormal",
    "PairwisePenalty",
    "Reduction",
    "Regularizer",
    "Sampling",
    "SelfConvolution",
    "SoftCosines",
    "SpectralNorm",
    "Squares",
    "barlow",
    "decov",
    "gram_normalized",
    "mc",
    "mhe",
    "ocnn",
    "orthoreg",
    "srip",
    "vicreg_cov",
]
