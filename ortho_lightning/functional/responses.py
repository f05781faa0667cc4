r"""Response angles: redundancy of the filters' responses to the real inputs of their layer.

Outputs have shape ``(..., n, k)``: n samples of k filters, without bias; leading dimensions are groups. For inputs of
uniform direction the response angle of two filters is the angle between them (Charikar 2002); one-sided or correlated
inputs separate the two kinds of angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.functional._lsh_formula import signs
from ortho_lightning.functional._pairs import PairSummary, PairSums, sum_pairs, summaries
from ortho_lightning.functional._precision import full_precision


@torch.no_grad()
@full_precision
def response_similarity(outputs: Tensor) -> Tensor:
    r"""Return the agreement of two filters' signs, :math:`\vartheta_{ij} = \frac{1}{n}\sum_a sgn(z_{ai}) sgn(z_{aj})`.

    It is :func:`~ortho_lightning.functional.lsh_similarity` with the hard sign, sgn(0) = -1, exact to the last bit: 1
    for equal signs, -1 for opposite ones. The signs have no gradient.

    Args:
        outputs: ``(..., n, k)`` pre-activations without bias, floating point.

    Returns:
        ``(..., k, k)`` in [-1, 1], float32 or better; NaN without samples.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.

    Example:
        >>> response_similarity(torch.tensor([[3.0, 2.0, -1.0], [-5.0, -4.0, -1.0]]))
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    hard = signs(outputs, gamma=None)
    return (hard.mT @ hard) / outputs.shape[-2]


def response_angles(outputs: Tensor) -> Tensor:
    r"""Return the response angles of pairs, :math:`90^\circ (1 - \vartheta_{ij})` for i < j in row-major order.

    n independent samples estimate a similarity with variance :math:`(1 - \vartheta^2)/n`, and so an angle
    :math:`\theta` with a standard deviation of :math:`90\sqrt{(1 - \vartheta^2)/n} = \sqrt{\theta(180 - \theta)/n}`
    degrees: :math:`90/\sqrt{n}` for independent signs, where it is largest, and 0 for equal or opposite ones. The
    estimate has no bias.

    Args:
        outputs: ``(..., n, k)`` pre-activations without bias, floating point.

    Returns:
        ``(..., k(k-1)/2)`` in [0, 180] degrees, without gradient; NaN without samples.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`response_similarity`.

    Example:
        >>> response_angles(torch.tensor([[3.0, 2.0, -1.0], [-5.0, -4.0, -1.0]]))
        tensor([ 0., 90., 90.])
    """
    similarity = response_similarity(outputs)
    rows, columns = torch.triu_indices(similarity.shape[-1], similarity.shape[-1], offset=1, device=outputs.device)
    return 90.0 * (1.0 - similarity[..., rows, columns])


@dataclass(frozen=True)
class ResponseStatistics:
    """Statistics of all response angles of a layer, in degrees, and their histogram over [0, 180].

    ``n`` is the number of samples. ``counts[b]`` is the number of pairs in bin b of ``len(counts)`` equal bins, ``std``
    that of the population. The statistics are NaN, and the histogram empty, where there is no pair, no
    sample, or an output is NaN.
    """

    n: int
    pairs: int
    mean: float
    std: float
    min: float
    max: float
    rms_similarity: float
    max_abs_similarity: float
    total: float
    total_squares: float
    counts: Tensor

    @property
    def sampling_error(self) -> float:
        r"""Standard deviation in degrees of an angle by sampling, root mean square over the pairs.

        :math:`90\sqrt{(1 - \overline{\hat\vartheta^2})/(n - 1)}`, which has no bias in its square, since n samples
        give :math:`E[\hat\vartheta^2] = \vartheta^2 + (1 - \vartheta^2)/n`. NaN for fewer than two samples. ``std**2``
        exceeds the variance of the exact angles by about its square.
        """
        if self.n < 2:
            return math.nan
        return 90.0 * math.sqrt(max(1.0 - self.rms_similarity**2, 0.0) / (self.n - 1))


def response_statistics(outputs: Tensor, bins: int = 90) -> ResponseStatistics:
    """Return statistics of the response angles, block by block: nothing of size k^2 is kept.

    Args:
        outputs: ``(..., n, k)`` pre-activations without bias, floating point; pairs are taken within groups and joined.
        bins: number of equal bins over [0, 180] degrees. The last one includes 180.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`response_similarity`.

    Example:
        >>> statistics = response_statistics(torch.tensor([[3.0, 2.0, -1.0], [-5.0, -4.0, -1.0]]))
        >>> statistics.mean, statistics.max, statistics.pairs
        (60.0, 90.0, 3)
    """
    return response_statistics_of([outputs], bins)[0]


def response_statistics_of(outputs: Sequence[Tensor], bins: int = 90) -> list[ResponseStatistics]:
    """Return :func:`response_statistics` of the outputs of each layer, for which a device is waited for once."""
    found = summaries([response_statistics_sums(each, bins) for each in outputs])
    return [_statistics(each.shape[-2], summary) for each, summary in zip(outputs, found, strict=True)]


@torch.no_grad()
@full_precision
def response_statistics_sums(outputs: Tensor, bins: int) -> PairSums:
    """Return what the statistics are made of, still on the device."""
    n, k = outputs.shape[-2:]
    groups = outputs.shape[:-2].numel() if n else 0  # without samples no angle is known
    hard = signs(outputs, gamma=None).reshape(groups, n, k)
    return sum_pairs(hard.mT, bins, 1 / max(n, 1), lambda similarities: (1 - similarities).mul_(90.0))


def _statistics(n: int, summary: PairSummary) -> ResponseStatistics:
    return ResponseStatistics(
        n=n,
        pairs=summary.pairs,
        mean=summary.mean,
        std=summary.std,
        min=90.0 * (1 - summary.highest),
        max=90.0 * (1 - summary.lowest),
        rms_similarity=summary.rms,
        max_abs_similarity=max(abs(summary.lowest), abs(summary.highest)),
        total=summary.total,
        total_squares=summary.total_squares,
        counts=summary.counts,
    )
