"""Energies of points on the sphere, which are lowest if the points are evenly distributed.

Sources: Liu et al. 2018, "Learning towards minimum hyperspherical energy" (arXiv 1805.09298), for filters; Sablayrolles
et al. 2019, "Spreading vectors for similarity search" (arXiv 1806.03198), for samples (KoLeo).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import full_precision, off_diagonal, unit

# Squared distances are not taken below this: at a distance of 0.01 the energies of s = 0, 1, 2 are 9.2, 100 and 10,000.
_CLOSEST = 1e-4
# A nearest neighbour counts as this far away at least, so that the gradient of one sample is at most a thousand.
_NEAREST = 1e-3


@full_precision
def hyperspherical_energy(similarity: Tensor, s: Literal[0, 1, 2] = 0, half_space: bool = False) -> Tensor:
    r"""Return the mean energy of the pairs of points on the unit sphere whose cosines are given.

    With :math:`d_{ij}^2 = 2 - 2 c_{ij}` it is the mean over :math:`i \ne j` of :math:`-\log d_{ij}^2` for s = 0 and of
    :math:`d_{ij}^{-s}` for s = 1, 2. Groups are averaged.

    Args:
        similarity: ``(..., k, k)`` cosines in [-1, 1], floating point; the diagonal is not read.
        s: exponent of the energy; 0 is its logarithmic limit.
        half_space: add the opposite of each point to the points, so that opposite filters repel each other as equal
            ones do.

    Returns:
        A scalar, float32 or better, finite everywhere; 0 where there is no pair.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for another s, or fewer than two dimensions.

    Example:
        >>> hyperspherical_energy(torch.eye(3), s=2).item()  # orthogonal: squared distances of 2
        0.5
    """
    check_energy_arguments(s, half_space)
    k = similarity.shape[-1]
    if k < 2:
        return similarity.sum() * 0.0
    pairs = k * (k - 1)
    energy = off_diagonal(_energy(similarity, s)).sum((-2, -1))
    if not half_space:
        return energy.mean() / pairs
    # among the 2k points each pair stands four times, twice with the opposite sign, and each point meets its opposite
    opposite = off_diagonal(_energy(-similarity, s)).sum((-2, -1))
    own = 2 * k * _energy(similarity.new_tensor(-1.0), s)
    return (2 * (energy + opposite) + own).mean() / (2 * k * (2 * k - 1))


@full_precision
def koleo(outputs: Tensor) -> Tensor:
    r"""Return the Kozachenko-Leonenko penalty on samples, :math:`-\frac1n \sum_i \log \min_{j \ne i} |x_i - x_j|`.

    The samples are scaled to unit length first. It pushes samples apart, not filters, and is 0 or less only where every
    sample is 1 or more away from all others. A distance d counts as :math:`\sqrt{d^2 + 10^{-6}}`, which keeps value and
    gradient finite for equal samples.

    Args:
        outputs: ``(..., n, k)``, floating point; groups are averaged.

    Returns:
        A scalar, float32 or better; 0 for fewer than two samples.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.

    Example:
        >>> round(koleo(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item(), 4)  # -log 2
        -0.6931
    """
    n = outputs.shape[-2]
    if n < 2:
        return outputs.sum() * 0.0
    directions = unit(outputs, dim=-1)
    with torch.no_grad():
        cosines = directions @ directions.mT
        cosines.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
        nearest = cosines.argmax(-1, keepdim=True).expand_as(directions)
    squares = (directions - directions.gather(-2, nearest)).square().sum(-1)
    return -0.5 * torch.log(squares + _NEAREST**2).mean()


def check_energy_arguments(s: int, half_space: bool) -> None:
    """Reject exponents without a formula."""
    if s not in (0, 1, 2):
        raise ConfigurationError(f"s={s!r}: must be 0, 1 or 2")
    if not isinstance(half_space, bool):
        raise ConfigurationError(f"half_space={half_space!r}: must be True or False")


def _energy(cosines: Tensor, s: int) -> Tensor:
    squares = (2 - 2 * cosines).clamp(min=_CLOSEST)
    return -torch.log(squares) if s == 0 else squares.pow(-s / 2)
