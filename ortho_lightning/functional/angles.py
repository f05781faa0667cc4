"""Angles between filters: cosines, angles, their statistics, and the references to compare them with.

Kernels have shape ``(..., k, d)``: k filters of d numbers. Leading dimensions are groups; pairs are taken within them.
Formulas: section 1 of the article 7169 of J. Su (kexue.fm) and its paper, arXiv 2001.01275.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._cosines import closed_cosines
from ortho_lightning.functional._pairs import PairSummary, PairSums, sum_pairs, summaries
from ortho_lightning.functional._precision import full_precision, unit


@full_precision
def pairwise_cosines(kernel: Tensor) -> Tensor:
    r"""Return the cosines between filters, :math:`c_{ij} = w_i \cdot w_j / (|w_i| |w_j|)`; 0 where a filter is zero.

    Args:
        kernel: ``(..., k, d)``, floating point.

    Returns:
        ``(..., k, k)`` in [-1, 1] up to rounding, float32 or better.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.

    Example:
        >>> pairwise_cosines(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    return closed_cosines(kernel)


@full_precision
def pairwise_angles(kernel: Tensor, degrees: bool = True) -> Tensor:
    r"""Return the angles between pairs of filters, :math:`\theta_{ij} = \arccos c_{ij}` for i < j in row-major order.

    The gradient is finite everywhere: where two filters are exactly parallel it is 0.

    Args:
        kernel: ``(..., k, d)``, floating point.
        degrees: degrees in [0, 180] if true, radians in [0, pi] otherwise.

    Returns:
        ``(..., k(k-1)/2)``; a zero filter has 90 degrees to every other.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`pairwise_cosines`.

    Example:
        >>> pairwise_angles(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        tensor([ 90., 180.,  90.])
    """
    cosines = pairwise_cosines(kernel)
    rows, columns = torch.triu_indices(cosines.shape[-1], cosines.shape[-1], offset=1, device=kernel.device)
    angles = _safe_arccos(cosines[..., rows, columns])
    return torch.rad2deg(angles) if degrees else angles


def _safe_arccos(cosines: Tensor) -> Tensor:
    # arccos has an infinite slope at +-1, which times the zero slope of the cosine there would give NaN.
    inside = ~(cosines.abs() >= 1)  # true for NaN
    ends = torch.where(cosines > 0, 0.0, math.pi).to(cosines.dtype)
    return torch.where(inside, torch.arccos(torch.where(inside, cosines, 0.0)), ends)


@functools.lru_cache(maxsize=4096)  # asked for every layer in every step that is logged
def null_std(d: int) -> float:
    r"""Return the standard deviation in degrees of the angle between random directions in R^d.

    :math:`\frac{180}{\pi}\sqrt{\psi_1(d/2)/2}`; their mean is 90 degrees. 90 at d = 1, 51.96 at d = 2, 39.2 at d = 3,
    about 57.3 / sqrt(d) for large d. Source: the density of the angle is proportional to sin^(d-2), whose variance is
    the trigamma function above.

    Raises:
        ConfigurationError: if d is not positive.
    """
    if d < 1:
        raise ConfigurationError(f"d={d}: a filter has at least one number")
    return math.degrees(math.sqrt(torch.special.polygamma(1, torch.tensor(d / 2, dtype=torch.float64)).item() / 2))


def null_density(degrees: Tensor, d: int) -> Tensor:
    r"""Return the density, per degree, of the angle between random directions in R^d, :math:`\sim \sin^{d-2}\theta`.

    Args:
        degrees: angles in [0, 180], any shape, floating point.
        d: 2 or more; at d = 1 there are only the angles 0 and 180.

    Returns:
        The shape of ``degrees``; its integral over [0, 180] is 1, its standard deviation :func:`null_std`.

    Raises:
        ConfigurationError: if d is below 2.

    Example:
        >>> null_density(torch.tensor([30.0, 90.0]), d=3) * 360 / torch.pi
        tensor([0.5000, 1.0000])
    """
    if d < 2:
        raise ConfigurationError(f"d={d}: the angle between directions has a density in two or more dimensions")
    area = math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi)
    return area * torch.deg2rad(degrees).sin() ** (d - 2) * (math.pi / 180)


def welch_floor(k: int, d: int) -> float:
    r"""Return the smallest rms cosine of k vectors in R^d, :math:`\sqrt{(k-d)/(d(k-1))}`, 0 if k <= d (Welch 1974)."""
    return math.sqrt((k - d) / (d * (k - 1))) if k > d else 0.0


@dataclass(frozen=True)
class AngleStatistics:
    """Statistics of all pairwise angles of a kernel, in degrees, and their histogram over [0, 180].

    ``d`` is the dimension of the filters. ``counts[b]`` is the number of pairs in bin b of ``len(counts)`` equal bins,
    ``std`` that of the population. The statistics are NaN, and the histogram empty, where there is no pair or a
    filter is not finite.
    """

    d: int
    pairs: int
    mean: float
    std: float
    min: float
    max: float
    rms_cos: float
    max_abs_cos: float
    total: float
    total_squares: float
    counts: Tensor


def angle_statistics(kernel: Tensor, bins: int = 90) -> AngleStatistics:
    """Return statistics of the pairwise angles, computed block by block with a few MiB of memory for any k.

    Args:
        kernel: ``(..., k, d)``, floating point; pairs are taken within groups and joined.
        bins: number of equal bins over [0, 180] degrees. The last one includes 180.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`pairwise_cosines`.

    Example:
        >>> statistics = angle_statistics(torch.eye(3))
        >>> statistics.mean, statistics.std, statistics.pairs
        (90.0, 0.0, 3)
    """
    return angle_statistics_of([kernel], bins)[0]


def angle_statistics_of(kernels: Sequence[Tensor], bins: int = 90) -> list[AngleStatistics]:
    """Return :func:`angle_statistics` of each kernel, for which a device is waited for once."""
    found = summaries([angle_statistics_sums(kernel, bins) for kernel in kernels])
    return [_statistics(kernel.shape[-1], summary) for kernel, summary in zip(kernels, found, strict=True)]


@torch.no_grad()
@full_precision
def angle_statistics_sums(kernel: Tensor, bins: int) -> PairSums:
    """Return what the statistics are made of, still on the device."""
    directions = unit(kernel, dim=-1).reshape(-1, *kernel.shape[-2:])
    return sum_pairs(directions, bins, 1.0, lambda cosines: torch.rad2deg_(cosines.arccos_()))


def _statistics(d: int, summary: PairSummary) -> AngleStatistics:
    return AngleStatistics(
        d=d,
        pairs=summary.pairs,
        mean=summary.mean,
        std=summary.std,
        min=math.degrees(math.acos(summary.highest)),
        max=math.degrees(math.acos(summary.lowest)),
        rms_cos=summary.rms,
        max_abs_cos=max(abs(summary.lowest), abs(summary.highest)),
        total=summary.total,
        total_squares=summary.total_squares,
        counts=summary.counts,
    )
