"""Count, mean and covariance of vectors in one pass, mergeable over batches and processes, always in float64.

Vectors are the rows of ``(N, d)``. Merging: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm
for computing sample variances".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.errors import ArgumentTypeError, ConfigurationError

# Rows converted to float64 at a time: 25 MB at d = 768, which still fits the last cache of a processor.
_BLOCK_ROWS = 4096
# Bands of the scatter matrix, each computed from its diagonal block rightwards: nearly half of the work of a float64
# product is left out, so that it costs little more than a full one in float32.
_PANELS = 4


@dataclass(frozen=True, eq=False)
class Moments:
    r"""The first two moments of N vectors in R^d, which suffice to whiten with every beta, gamma and k.

    Attributes:
        count: N.
        mean: :math:`\mu`, ``(d,)`` float64.
        scatter: :math:`\sum_a (x_a - \mu)^\top (x_a - \mu)`, ``(d, d)`` float64, symmetric to the bit.

    Example:
        >>> left, right = Moments.of(torch.tensor([[0.0], [2.0]])), Moments.of(torch.tensor([[4.0]]))
        >>> joined = left.merge(right)
        >>> joined.count, joined.mean.item(), round(joined.covariance.item(), 4)
        (3, 2.0, 2.6667)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, d: int, device: torch.device | None = None) -> Moments:
        """Return the moments of no vector, from which merging starts."""
        zeros = torch.zeros(d, d, dtype=torch.float64, device=device)
        return cls(0, zeros.new_zeros(d), zeros)

    @classmethod
    def of(cls, batch: Tensor, first_row: int = 0) -> Moments:
        """Return the moments of the rows of ``batch``, block by block: nothing of the batch's size is allocated.

        The rows are centred before they are multiplied, all in float64, whatever their dtype: a mean of 1e4 with unit
        variance loses no digit, equal columns give equal entries, and float32 data of lower rank keep their rank.

        Args:
            batch: ``(N, d)``, floating point, on any device; N may be 0.
            first_row: number of the first row where the batch is a part, from which errors count.

        Raises:
            ArgumentTypeError: for a tensor that is not floating point.
            ConfigurationError: for another number of dimensions, no column, or a NaN or infinity, naming its row.
        """
        check_rows(batch)
        device = torch.device("cpu") if batch.device.type == "mps" else batch.device  # MPS has no float64
        running = _Accumulator(batch.shape[1], min(len(batch), _BLOCK_ROWS), device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(batch), _BLOCK_ROWS):
                running.add(batch[start : start + _BLOCK_ROWS], first_row + start)
            return running.finish()

    def merge(self, other: Moments) -> Moments:
        r"""Return the moments of both sets together, :math:`S = S_1 + S_2 + \frac{n_1 n_2}{n} \delta^\top\delta`.

        Raises:
            ConfigurationError: if their vectors have different sizes.
        """
        if self.d != other.d:
            raise ConfigurationError(f"moments of vectors with {self.d} and with {other.d} numbers cannot be merged")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), scatter)

    @property
    def d(self) -> int:
        """Number of dimensions of a vector."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Tensor:
        """Covariance ``(d, d)``, divided by N (not N - 1); NaN where N = 0."""
        return self.scatter / self.count if self.count else torch.full_like(self.scatter, torch.nan)

    def second_moment(self, beta: float) -> Tensor:
        r"""Return :math:`\Sigma(\beta) = Cov + (1-\beta)^2 \mu^\top\mu`, ``(d, d)`` float64.

        Equal to :math:`\frac{1}{N} \sum_a (x_a-\beta\mu)^\top(x_a-\beta\mu)`: the covariance at beta = 1, the uncentred
        second moment at beta = 0.
        """
        return self.covariance + (1 - beta) ** 2 * torch.outer(self.mean, self.mean)

    def to(self, device: torch.device | str) -> Moments:
        """Return the same moments on another device."""
        return Moments(self.count, self.mean.to(device), self.scatter.to(device))


def check_rows(batch: Tensor) -> None:
    """Reject anything but ``(N, d)`` floating point with d of 1 or more."""
    if not isinstance(batch, Tensor) or not batch.is_floating_point():
        kind = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
        raise ArgumentTypeError(f"vectors must be a floating-point tensor, got {kind}: convert them with .float()")
    if batch.dim() != 2 or batch.shape[1] == 0:
        raise ConfigurationError(f"vectors must be (N, d) with d of 1 or more, got shape {tuple(batch.shape)}")


class _Accumulator:
    """Moments that grow in place: one buffer for a block, one for the upper half of the scatter matrix."""

    def __init__(self, d: int, rows: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self.upper = torch.zeros(d, d, dtype=torch.float64, device=device)
        self.buffer = torch.empty(rows + 1, d, dtype=torch.float64, device=device)

    def add(self, block: Tensor, first_row: int) -> None:
        n = len(block)
        rows, last = self.buffer[:n], self.buffer[n]
        rows.copy_(block)
        # about the first row, then about the mean: constant columns become exact zeros
        origin = rows[0].clone()
        rows.sub_(origin)
        shift = rows.sum(0) / n
        if not shift.isfinite().all():
            _reject_non_finite(block, first_row)
        rows.sub_(shift)
        delta = origin + shift - self.mean
        count = self.count + n
        # the correction of Chan's formula is one more row of the product
        torch.mul(delta, (self.count * n / count) ** 0.5, out=last)
        self.mean += delta * (n / count)
        self.count = count
        self._multiply(self.buffer[: n + 1])

    def _multiply(self, rows: Tensor) -> None:
        d = rows.shape[1]
        width = -(-d // _PANELS)
        for left in range(0, d, width):
            right = min(left + width, d)
            self.upper[left:right, left:].addmm_(rows[:, left:right].mT, rows[:, left:])

    def finish(self) -> Moments:
        if not self.upper.isfinite().all():
            raise ConfigurationError("the vectors are too large for their squares in float64: rescale them")
        return Moments(self.count, self.mean, self.upper.triu_() + self.upper.triu(1).mT)


def _reject_non_finite(block: Tensor, first_row: int) -> None:
    bad = (~block.isfinite().all(1)).nonzero().flatten().tolist()
    if not bad:
        raise ConfigurationError(
            f"rows {first_row} to {first_row + len(block) - 1} are too large for float64: rescale them"
        )
    names = ", ".join(str(first_row + row) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
    raise ConfigurationError(
        f"the vectors hold NaN or infinity in {len(bad)} row(s): {names}. Leave them out or correct them"
    )
