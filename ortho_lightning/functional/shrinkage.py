r"""Shrinkage of a covariance towards equal variances, estimated from the moments of the vectors.

Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
"""

from __future__ import annotations

import math

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.moments import Moments


def ledoit_wolf(moments: Moments) -> float:
    r"""Return the share s of the mean variance that gives the smallest expected squared error.

    The estimate is :math:`(1-s) Cov + s \frac{tr Cov}{d} I` with :math:`s = \min(b, a) / a`,

    .. math:: a = |Cov - \tfrac{tr Cov}{d} I|_F^2, \qquad
              b = \tfrac{1}{N} (\tfrac{1}{N} \sum_a |x_a - \mu|^4 - |Cov|_F^2).

    Equal to scikit-learn's ``ledoit_wolf_shrinkage``. With weights, means are weighted and N is the effective number of
    vectors, :math:`(\sum w)^2 / \sum w^2`.

    Args:
        moments: of two or more vectors.

    Returns:
        A number in [0, 1]; 0 where all variances are equal already.

    Raises:
        ConfigurationError: for moments from a file of version 1, which has no higher moments; for vectors whose fourth
            powers overflow.

    Example:
        >>> import torch
        >>> round(ledoit_wolf(Moments.of(torch.tensor([[3.0, 1.0], [-3.0, -1.0], [1.0, 2.0]]))), 4)
        0.4414
    """
    if moments.tails is None:
        raise ConfigurationError(
            "shrinkage='ledoit-wolf': this whitening was saved by version 1, which did not keep the moments that the "
            "estimate needs; fit it again, or give a number from 0 to 1"
        )
    quartic = float(moments.tails.quartic)
    if not math.isfinite(quartic):
        raise ConfigurationError("shrinkage='ledoit-wolf': the vectors are too large for their fourth powers; rescale")
    covariance = moments.covariance
    size = float(covariance.square().sum())
    distance = size - float(covariance.trace()) ** 2 / moments.d
    error = (quartic / moments.total - size) / moments.effective_count
    if distance <= 0 or error <= 0:
        return 0.0
    return min(error / distance, 1.0)
