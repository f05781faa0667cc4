"""Covariances between the outputs of a layer over a batch, which decorrelating penalties reduce."""

from __future__ import annotations

from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import full_precision, unit


@full_precision
def covariance(outputs: Tensor, correction: int = 0) -> Tensor:
    r"""Return the covariances of the filters' outputs, :math:`C = \bar Z^\top \bar Z / (n - \text{correction})`.

    Args:
        outputs: ``(..., n, k)``, n samples of k filters, floating point.
        correction: 0 divides by n (DeCov), 1 by n - 1 (VICReg).

    Returns:
        ``(..., k, k)``, float32 or better; 0 where the divisor is.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for another correction, or fewer than two dimensions.

    Example:
        >>> import torch
        >>> covariance(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
        tensor([[1., 2.],
                [2., 4.]])
    """
    check_correction(correction)
    centred = _centred(outputs)
    return centred.mT @ centred / max(outputs.shape[-2] - correction, 1)


@full_precision
def correlation(outputs: Tensor) -> Tensor:
    """Return the correlations of the filters' outputs, ``(..., n, k) -> (..., k, k)`` in [-1, 1] up to rounding.

    Rows and columns of a constant output are 0.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.
    """
    directions = unit(_centred(outputs), dim=-2)
    return directions.mT @ directions


def check_correction(correction: int) -> None:
    """Reject a correction that no method uses."""
    if correction not in (0, 1):
        raise ConfigurationError(f"correction={correction!r}: must be 0 (divide by n) or 1 (by n - 1)")


def _centred(outputs: Tensor) -> Tensor:
    return outputs - outputs.mean(-2, keepdim=True) if outputs.shape[-2] else outputs
