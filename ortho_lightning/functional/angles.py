"""Angles between filters: cosines, angles, their statistics, and what to set them against.

Kernels have shape ``(..., k, d)``: k filters of d numbers; leading dimensions are groups whose filters never meet.
Formulas: section 1 of the article 7169 of J. Su (kexue.fm) and its paper, arXiv 2001.01275.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import full_precision, unit

# Elements of one block of cosines: 16 MiB in float32, small beside any network that has so many filters.
_BLOCK_ELEMENTS = 2**22


@full_precision
def pairwise_cosines(kernel: Tensor) -> Tensor:
    r"""Cosines between filters, :math:`c_{ij} = w_i \cdot w_j / (|w_i| |w_j|)`; 0 where a filter is zero.

    Args:
        kernel: ``(..., k, d)``, floating point.

    Returns:
        ``(..., k, k)`` in [-1, 1] up to rounding, float32 or better.

    Raises:
        TypeError: for a tensor that is not floating point.
        ValueError: for fewer than two dimensions.

    Example:
        >>> pairwise_cosines(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    directions = unit(kernel, dim=-1)
    return directions @ directions.mT


@full_precision
def pairwise_angles(kernel: Tensor, degrees: bool = True) -> Tensor:
    r"""Angles between pairs of filters, :math:`\theta_{ij} = \arccos c_{ij}` for i < j, row by row.

    The gradient is finite everywhere: where two filters are exactly parallel it is 0.

    Args:
        kernel: ``(..., k, d)``, floating point.
        degrees: degrees in [0, 180] if true, radians in [0, pi] otherwise.

    Returns:
        ``(..., k(k-1)/2)``; a zero filter stands at 90 degrees to every other.

    Raises:
        TypeError, ValueError: as :func:`pairwise_cosines`.

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
    inside = cosines.abs() < 1
    ends = torch.where(cosines > 0, 0.0, math.pi).to(cosines.dtype)
    return torch.where(inside, torch.arccos(torch.where(inside, cosines, 0.0)), ends)


def null_std(d: int) -> float:
    r"""Spread in degrees of the angle between random directions in R^d: :math:`\frac{180}{\pi}\sqrt{\psi_1(d/2)/2}`.

    Their mean is 90 degrees. 90 at d = 1, 51.96 at d = 2, 39.2 at d = 3, about 57.3 / sqrt(d) for large d. Source: the
    density of the angle is proportional to sin^(d-2), whose variance is the trigamma function above.

    Raises:
        ValueError: if d is not positive.
    """
    if d < 1:
        raise ConfigurationError(f"d={d}: a filter has at least one number")
    return math.degrees(math.sqrt(torch.special.polygamma(1, torch.tensor(d / 2, dtype=torch.float64)).item() / 2))


def null_density(degrees: Tensor, d: int) -> Tensor:
    r"""Density, per degree, of the angle between random directions in R^d: proportional to :math:`\sin^{d-2}\theta`.

    Args:
        degrees: angles in [0, 180], any shape, floating point.
        d: 2 or more; at d = 1 there are only the angles 0 and 180.

    Returns:
        The shape of ``degrees``; its integral over [0, 180] is 1, its spread :func:`null_std`.

    Raises:
        ValueError: if d is below 2.

    Example:
        >>> null_density(torch.tensor([30.0, 90.0]), d=3) * 360 / torch.pi
        tensor([0.5000, 1.0000])
    """
    if d < 2:
        raise ConfigurationError(f"d={d}: the angle between directions has a density in two or more dimensions")
    area = math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi)
    return area * torch.deg2rad(degrees).sin() ** (d - 2) * (math.pi / 180)


def welch_floor(k: int, d: int) -> float:
    r"""Smallest rms cosine of k vectors in R^d: :math:`\sqrt{(k-d)/(d(k-1))}`, 0 when k <= d (Welch 1974)."""
    return math.sqrt((k - d) / (d * (k - 1))) if k > d else 0.0


@dataclass(frozen=True)
class AngleStatistics:
    """Statistics of all pairwise angles of a kernel, in degrees, and their histogram over [0, 180].

    ``d`` is the dimension of the filters. ``counts[b]`` is the number of pairs in bin b of ``len(counts)`` equal bins,
    ``std`` that of the population. The statistics are NaN, and the histogram empty, where there is no pair.
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


@torch.no_grad()
@full_precision
def angle_statistics(kernel: Tensor, bins: int = 90) -> AngleStatistics:
    """Statistics of the pairwise angles, block by block: never more than a few MiB, whatever k.

    Args:
        kernel: ``(..., k, d)``, floating point; pairs are taken within groups and joined.
        bins: number of equal bins over [0, 180] degrees. The last one includes 180.

    Raises:
        TypeError, ValueError: as :func:`pairwise_cosines`.

    Example:
        >>> statistics = angle_statistics(torch.eye(3))
        >>> statistics.mean, statistics.std, statistics.pairs
        (90.0, 0.0, 3)
    """
    directions = unit(kernel, dim=-1).reshape(-1, *kernel.shape[-2:])
    groups, k, d = directions.shape
    widest = torch.float32 if kernel.device.type == "mps" else torch.float64  # MPS has no float64
    counts = torch.zeros(bins, dtype=torch.int64, device=kernel.device)
    # pairs are counted exactly; the sums are taken about 90 degrees, where the angles are, so that nothing cancels
    sums = torch.zeros(3, dtype=widest, device=kernel.device)
    extremes = torch.tensor([math.inf, -math.inf], dtype=kernel.dtype, device=kernel.device)
    for cosines in _cosines_of_pairs(directions):
        cosines.clamp_(-1.0, 1.0)
        extremes[0] = torch.minimum(extremes[0], cosines.min())
        extremes[1] = torch.maximum(extremes[1], cosines.max())
        sums[2] += cosines.square().sum(dtype=widest)
        deviations = torch.rad2deg_(cosines.arccos_()).sub_(90.0)
        sums[0] += deviations.sum(dtype=widest)
        sums[1] += deviations.square().sum(dtype=widest)
        # not histc, which has no deterministic form on a GPU
        places = deviations.add_(90.0).mul_(bins / 180.0).long().clamp_(0, bins - 1)
        counts += torch.bincount(places, minlength=bins)
    return _finish(d, groups * k * (k - 1) // 2, sums, extremes, counts)


def _cosines_of_pairs(directions: Tensor) -> Iterator[Tensor]:
    """The cosines of all pairs i < j of unit vectors ``(groups, k, d)`` in flat blocks that may be overwritten."""
    groups, k, _ = directions.shape
    rows = min(k, max(1, _BLOCK_ELEMENTS // max(k, 1)))
    together = max(1, _BLOCK_ELEMENTS // max(rows * k, 1))  # small groups at once, large ones row by row
    if k < 2:
        return
    for first in range(0, groups, together):
        part = directions[first : first + together]
        for start in range(0, k, rows):
            stop = min(start + rows, k)
            here = part[:, start:stop]
            i, j = torch.triu_indices(stop - start, stop - start, offset=1, device=directions.device)
            if len(i):
                yield (here @ here.mT)[:, i, j].flatten()
            if stop < k:
                yield (here @ part[:, stop:].mT).flatten()


def _finish(d: int, pairs: int, sums: Tensor, cosine_extremes: Tensor, counts: Tensor) -> AngleStatistics:
    if pairs == 0:
        nan = math.nan
        return AngleStatistics(d, 0, nan, nan, nan, nan, nan, nan, 0.0, 0.0, counts.cpu())
    deviation, squares, cos_squares = sums.tolist()
    low, high = cosine_extremes.tolist()
    mean = deviation / pairs
    return AngleStatistics(
        d=d,
        pairs=pairs,
        mean=90.0 + mean,
        std=math.sqrt(max(squares / pairs - mean * mean, 0.0)),
        min=math.degrees(math.acos(high)),
        max=math.degrees(math.acos(low)),
        rms_cos=math.sqrt(cos_squares / pairs),
        max_abs_cos=max(abs(low), abs(high)),
        total=deviation + 90.0 * pairs,
        total_squares=squares + 180.0 * deviation + 8100.0 * pairs,
        counts=counts.cpu(),
    )
