"""Published penalties under their names.

Each is a :class:`~ortho_lightning.regularizers.PairwisePenalty`, or a small class of its own where the method is no
comparison of pairs. The weights of their publications are in ``conf/regularizer/``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.comparisons import (
    Correlation,
    Cosines,
    Covariance,
    InnerProducts,
    Rows,
    SelfConvolution,
)
from ortho_lightning.regularizers.pairwise import PairwisePenalty
from ortho_lightning.regularizers.reductions import (
    Energy,
    Frobenius,
    Maximum,
    SoftCosines,
    SpectralNorm,
    Squares,
)
from ortho_lightning.regularizers.view import LayerView


def gram_normalized(rows: Rows = "filters", parts: int = 1, max_filters: int | None = None) -> PairwisePenalty:
    """Return the mean over pairs of the squared cosines, whose weights transfer between layers and sizes."""
    return PairwisePenalty(Cosines(rows, parts), Squares("pairs"), max_filters=max_filters)


class DSO(Regularizer):
    """Double soft orthogonality, ``|W^T W - I|^2 + |W W^T - I|^2`` (Bansal et al. 2018).

    The two terms differ by the constant k - d, so the gradient is twice that of
    :class:`~ortho_lightning.regularizers.Gram`.
    """

    def __repr__(self) -> str:
        return "DSO()"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, added over its groups."""
        groups, k, d = layer.filters.shape
        return 2 * OF.gram_penalty(layer.filters) + groups * (d - k)


def mc() -> PairwisePenalty:
    """Return the mutual coherence, the largest entry of ``|W^T W - I|`` (Bansal et al. 2018)."""
    return PairwisePenalty(InnerProducts(), Maximum())


def srip(iterations: int = 1) -> PairwisePenalty:
    """Return the spectral restricted isometry penalty, the spectral norm of W^T W - I (Bansal et al. 2018).

    Of the smaller Gram matrix: the larger one has an eigenvalue of -1, whatever the filters.
    """
    return PairwisePenalty(InnerProducts(rows="smaller"), SpectralNorm(iterations))


def ocnn(padding: Literal["layer", "full"] = "layer") -> PairwisePenalty:
    """Return the distance of a convolution from an orthogonal one (Wang et al. 2020)."""
    return PairwisePenalty(SelfConvolution(padding), Frobenius())


def mhe(s: Literal[0, 1, 2] = 2, half_space: bool = False, rows: Rows = "filters") -> PairwisePenalty:
    """Return the minimum hyperspherical energy of the filters (Liu et al. 2018)."""
    return PairwisePenalty(Cosines(rows), Energy(s, half_space))


def orthoreg(slope: float = 10.0) -> PairwisePenalty:
    """Return OrthoReg's penalty on positive cosines (Rodriguez et al. 2017).

    Its gradient by the filters is that of the formula; the authors' update takes the gradient by the unit filters.
    """
    return PairwisePenalty(Cosines(), SoftCosines(slope))


def decov(max_samples: int | None = 768) -> PairwisePenalty:
    """Return DeCov, half the sum of the squared covariances (Cogswell et al. 2016, arXiv 1511.06068)."""
    return PairwisePenalty(Covariance(0, max_samples), Squares(), scale=0.5)


def vicreg_cov(max_samples: int | None = 768) -> PairwisePenalty:
    """Return the covariance term of VICReg (Bardes et al. 2022, arXiv 2105.04906)."""
    return PairwisePenalty(Covariance(1, max_samples), Squares("rows"))


def barlow(max_samples: int | None = 768) -> PairwisePenalty:
    """Return the redundancy term of Barlow Twins, within one view (Zbontar et al. 2021, arXiv 2103.03230)."""
    return PairwisePenalty(Correlation(max_samples), Squares())


class KoLeo(Regularizer):
    """KoLeo on the outputs: pushes samples away from their nearest neighbours (Sablayrolles et al. 2019).

    See :func:`~ortho_lightning.functional.koleo`. It pushes samples apart, not filters.

    Args:
        max_samples: samples of the batch and the map, 2 or more; None: all.

    Raises:
        ConfigurationError: for fewer than two samples.
    """

    def __init__(self, max_samples: int | None = 768) -> None:
        self.sampling = Sampling(max_samples)
        self.max_samples = max_samples

    def __repr__(self) -> str:
        return f"KoLeo(max_samples={self.max_samples})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, averaged over its groups."""
        return OF.koleo(layer.outputs)
