"""Statistics over all pairs of filters, block by block, so that nothing of size k^2 is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.host import on_host

# Elements of one block of products: 16 MiB in float32, small beside any network that has so many filters.
_BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True)
class PairSummary:
    """Angles of all pairs in degrees, and the similarities (cosines or agreements of signs) that they come from."""

    pairs: int
    mean: float
    std: float
    total: float
    total_squares: float
    rms: float
    lowest: float
    highest: float
    counts: Tensor


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over all pairs, on the device of the vectors; :func:`summaries` makes summaries of them."""

    pairs: int
    sums: Tensor
    extremes: Tensor
    counts: Tensor


def sum_pairs(vectors: Tensor, bins: int, scale: float, angles_: Callable[[Tensor], Tensor]) -> PairSums:
    """Sum over the angles between all pairs of vectors of the same group; waits for no device.

    Args:
        vectors: ``(groups, k, d)``, float32 or better.
        bins: number of equal bins of the histogram over [0, 180] degrees.
        scale: factor that turns an inner product into a similarity in [-1, 1].
        angles_: angles in degrees from similarities; it may overwrite them.

    Returns:
        The sums.
    """
    groups, k, _ = vectors.shape
    pairs = groups * k * (k - 1) // 2
    device = vectors.device
    widest = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    counts = torch.zeros(bins, dtype=torch.int64, device=device)
    # pairs are counted exactly; the sums are taken about 90 degrees, where the angles are, so that nothing cancels
    sums = torch.zeros(3, dtype=widest, device=device)
    extremes = torch.tensor([math.inf, -math.inf], dtype=vectors.dtype, device=device)
    for products in _products_of_pairs(vectors):
        similarities = products.mul_(scale).clamp_(-1.0, 1.0)
        extremes[0] = torch.minimum(extremes[0], similarities.min())
        extremes[1] = torch.maximum(extremes[1], similarities.max())
        sums[2] += similarities.square().sum(dtype=widest)
        deviations = angles_(similarities).sub_(90.0)
        sums[0] += deviations.sum(dtype=widest)
        sums[1] += deviations.square().sum(dtype=widest)
        # not histc, which has no deterministic form on a GPU, nor bincount, which waits for it
        places = deviations.add_(90.0).mul_(bins / 180.0).long().clamp_(0, bins - 1)
        counts.index_add_(0, places, torch.ones((), dtype=counts.dtype, device=device).expand(places.shape))
    return PairSums(pairs, sums, extremes, counts)


def summaries(found: Sequence[PairSums]) -> list[PairSummary]:
    """Return the summary of each; NaN, with an empty histogram, where there is no pair or a number is not finite.

    Each device is waited for once.
    """
    parts = iter(on_host([part for each in found for part in (each.sums, each.extremes, each.counts)]))
    return [_summary(each.pairs, next(parts), next(parts), next(parts)) for each in found]


def _products_of_pairs(vectors: Tensor) -> Iterator[Tensor]:
    """Yield the inner products of all pairs i < j in flat blocks that may be overwritten."""
    groups, k, _ = vectors.shape
    rows = min(k, max(1, _BLOCK_ELEMENTS // max(k, 1)))
    together = max(1, _BLOCK_ELEMENTS // max(rows * k, 1))  # small groups at once, large ones row by row
    if k < 2:
        return
    for first in range(0, groups, together):
        part = vectors[first : first + together]
        for start in range(0, k, rows):
            stop = min(start + rows, k)
            here = part[:, start:stop]
            i, j = torch.triu_indices(stop - start, stop - start, offset=1, device=vectors.device)
            if len(i):
                yield (here @ here.mT)[:, i, j].flatten()
            if stop < k:
                yield (here @ part[:, stop:].mT).flatten()


def _summary(pairs: int, sums: Tensor, extremes: Tensor, counts: Tensor) -> PairSummary:
    if pairs == 0:
        nan = math.nan
        return PairSummary(0, nan, nan, 0.0, 0.0, nan, nan, nan, counts)
    deviation, squares, similarity_squares = sums.tolist()
    lowest, highest = extremes.tolist()
    if not math.isfinite(squares):  # NaN has no bin
        lowest = highest = math.nan
        counts = torch.zeros_like(counts)
    mean = deviation / pairs
    return PairSummary(
        pairs=pairs,
        mean=90.0 + mean,
        std=math.sqrt(max(squares / pairs - mean * mean, 0.0)),
        total=deviation + 90.0 * pairs,
        total_squares=squares + 180.0 * deviation + 8100.0 * pairs,
        rms=math.sqrt(similarity_squares / pairs),
        lowest=lowest,
        highest=highest,
        counts=counts,
    )
