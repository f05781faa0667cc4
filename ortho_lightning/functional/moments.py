"""Count, mean and covariance of vectors in one pass, mergeable over batches and processes.

Vectors are the rows of ``(N, d)``. Merging: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm
for computing sample variances".
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from ortho_lightning.errors import ArgumentTypeError, ConfigurationError
from ortho_lightning.functional._accumulation import Accumulator, Block, CentralSums

# Rows of a product: 12 MB in float64 at d = 768, which still fits the last cache of a processor.
_BLOCK_ROWS = 2048
_EXACT = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class WeightSums:
    """Sums of the weights of vectors.

    Attributes:
        total: sum of the weights.
        squares: sum of their squares.
    """

    total: float
    squares: float


@dataclass(frozen=True, eq=False)
class Tails:
    r"""Higher moments of vectors about their mean, from which the shrinkage of the covariance is estimated.

    Attributes:
        cubic: :math:`\sum_a w_a |y_a|^2 y_a` with :math:`y_a = x_a - \mu`, ``(d,)`` float64. Only merging needs it.
        quartic: :math:`\sum_a w_a |y_a|^4`, ``()`` float64.
    """

    cubic: Tensor
    quartic: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Moments of N vectors in R^d, which are sufficient to whiten with any beta, gamma, k, shrinkage and eps.

    Attributes:
        count: N; vectors of weight 0 do not count.
        mean: :math:`\mu`, ``(d,)`` float64, weighted.
        scatter: :math:`\sum_a w_a (x_a - \mu)^\top (x_a - \mu)`, ``(d, d)`` float64, symmetric to the bit.
        weights: sums of the weights; None: all are 1.
        tails: higher moments; None in files of version 1, which did not keep them.
        precision: relative rounding error of a product in ``scatter``: that of float64, or of float32.

    Example:
        >>> left, right = Moments.of(torch.tensor([[0.0], [2.0]])), Moments.of(torch.tensor([[4.0]]))
        >>> joined = left.merge(right)
        >>> joined.count, joined.mean.item(), round(joined.covariance.item(), 4)
        (3, 2.0, 2.6667)
    """

    count: int
    mean: Tensor
    scatter: Tensor
    weights: WeightSums | None = None
    tails: Tails | None = None
    precision: float = _EXACT

    @classmethod
    def empty(cls, d: int, device: torch.device | None = None) -> Moments:
        """Return the moments of an empty set of vectors, to start merging from."""
        zeros = torch.zeros(d, d, dtype=torch.float64, device=device)
        return cls(0, zeros.new_zeros(d), zeros, tails=Tails(zeros.new_zeros(d), zeros.new_zeros(())))

    @classmethod
    def of(
        cls,
        batch: Tensor,
        first_row: int = 0,
        weights: Tensor | None = None,
        accumulation: torch.dtype = torch.float64,
    ) -> Moments:
        """Return the moments of the rows of ``batch``, block by block: nothing of the batch's size is allocated.

        The rows are centred before they are multiplied, in float64 by default, whatever their dtype: a mean of 1e4 with
        unit variance loses no digit, equal columns give equal entries, and float32 data of lower rank keep their rank.

        Args:
            batch: ``(N, d)``, floating point, on any device; N may be 0.
            first_row: number of the first row where the batch is a part, from which errors count.
            weights: ``(N,)``, 0 or more, such as word frequencies; a weight of 2 counts as the row twice, and only
                ratios matter to a whitening. None: 1 each.
            accumulation: dtype of the products. float32 takes about 60% of the time; each entry of the covariance is
                then off by up to about 1e-6 of the two standard deviations, so that smaller eigenvalues are noise.

        Raises:
            ArgumentTypeError: for a tensor that is not floating point.
            ConfigurationError: for another number of dimensions, no column, or a NaN or infinity, naming its row; for
                weights of another shape, negative or not finite, naming the row.
        """
        return cls.of_batches([(batch, weights)], first_row, accumulation)

    @classmethod
    def of_batches(
        cls,
        batches: Iterable[tuple[Tensor, Tensor | None]],
        first_row: int = 0,
        accumulation: torch.dtype = torch.float64,
    ) -> Moments:
        """Return the moments of the rows of all batches, faster than merging those of each.

        Args:
            batches: pairs of a batch and its weights (or None), as for :meth:`of`; one or more, of one device.
            first_row: number of the first row, from which errors count.
            accumulation: as for :meth:`of`.

        Raises:
            ArgumentTypeError: as :meth:`of`.
            ConfigurationError: as :meth:`of`; for batches of different widths, or none.
        """
        if accumulation not in (torch.float64, torch.float32):
            raise ConfigurationError(f"accumulation={accumulation}: must be torch.float64 or torch.float32")
        found: Moments | None = None
        precision = torch.finfo(accumulation).eps
        for sums in _segments(batches, first_row, accumulation):
            weights = WeightSums(sums.total, sums.squares) if sums.weighted else None
            here = cls(sums.count, sums.mean, sums.scatter, weights, Tails(sums.cubic, sums.quartic), precision)
            found = here if found is None else found.merge(here)
        if found is None:
            raise ConfigurationError("there are no vectors: the iterable gave no batch")
        return found

    def merge(self, other: Moments) -> Moments:
        r"""Return the moments of both sets together, :math:`S = S_1 + S_2 + \frac{w_1 w_2}{w} \delta^\top\delta`.

        Raises:
            ConfigurationError: if their vectors have different sizes.
        """
        if self.d != other.d:
            raise ConfigurationError(f"moments of vectors with {self.d} and with {other.d} numbers cannot be merged")
        if not self.count or not other.count:
            return self if self.count else other
        total = self.total + other.total
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.total / total)
        # each set's shift from the joined mean, from delta: the difference of two rounded means would lose digits
        left, right = self._about(-delta * (other.total / total)), other._about(delta * (self.total / total))
        tails = None if left is None or right is None else Tails(left.cubic + right.cubic, left.quartic + right.quartic)
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.total * other.total / total)
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = WeightSums(total, self.squares + other.squares)
        precision = max(self.precision, other.precision)
        return Moments(self.count + other.count, mean, scatter, weights, tails, precision)

    def about(self, point: Tensor) -> tuple[Tensor, Tails | None]:
        """Return the scatter matrix and the higher moments about another point than the mean.

        Those of several sets about the same point add up.

        Args:
            point: ``(d,)`` float64.
        """
        shift = self.mean - point
        return self.scatter + self.total * torch.outer(shift, shift), self._about(shift)

    def _about(self, shift: Tensor) -> Tails | None:
        if self.tails is None:
            return None
        length, spread, turned = shift.square().sum(), self.scatter.trace(), self.scatter @ shift
        cubic = self.tails.cubic + spread * shift + 2 * turned + self.total * length * shift
        quartic = (
            self.tails.quartic
            + 4 * (self.tails.cubic @ shift + turned @ shift)
            + 2 * length * spread
            + self.total * length.square()
        )
        return Tails(cubic, quartic)

    @property
    def d(self) -> int:
        """Number of dimensions of a vector."""
        return self.mean.shape[0]

    @property
    def total(self) -> float:
        """Sum of the weights; N where there are none."""
        return float(self.count) if self.weights is None else self.weights.total

    @property
    def squares(self) -> float:
        """Sum of the squared weights; N where there are none."""
        return float(self.count) if self.weights is None else self.weights.squares

    @property
    def effective_count(self) -> float:
        r"""Number of vectors of equal weight that determine a mean as well, :math:`(\sum w)^2 / \sum w^2`."""
        return self.total**2 / self.squares if self.squares else 0.0

    @property
    def covariance(self) -> Tensor:
        """Covariance ``(d, d)``, divided by N (not N - 1) or the sum of the weights; NaN where N = 0."""
        return self.scatter / self.total if self.count else torch.full_like(self.scatter, torch.nan)

    def second_moment(self, beta: float, shrinkage: float = 0.0) -> Tensor:
        r"""Return :math:`\Sigma(\beta) = Cov + (1-\beta)^2 \mu^\top\mu`, ``(d, d)`` float64.

        Equal to :math:`\frac{1}{N} \sum (x_a-\beta\mu)^\top(x_a-\beta\mu)`: the covariance at beta = 1, the uncentred
        second moment at beta = 0.

        Args:
            beta: share of the mean that is subtracted.
            shrinkage: share s of the mean variance in every direction, instead of the covariance:
                :math:`(1-s) Cov + s \frac{tr Cov}{d} I`. 0: the covariance.
        """
        covariance = self.covariance
        if shrinkage:
            mean_variance = covariance.trace() / self.d
            covariance = (1 - shrinkage) * covariance
            covariance.diagonal().add_(shrinkage * mean_variance)
        return covariance + (1 - beta) ** 2 * torch.outer(self.mean, self.mean)

    def to(self, device: torch.device | str) -> Moments:
        """Return the same moments on another device."""
        tails = None if self.tails is None else Tails(self.tails.cubic.to(device), self.tails.quartic.to(device))
        return replace(self, mean=self.mean.to(device), scatter=self.scatter.to(device), tails=tails)


def check_rows(batch: Tensor) -> None:
    """Reject anything but ``(N, d)`` floating point with d of 1 or more."""
    if not isinstance(batch, Tensor) or not batch.is_floating_point():
        kind = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
        raise ArgumentTypeError(f"vectors must be a floating-point tensor, got {kind}: convert them with .float()")
    if batch.dim() != 2 or batch.shape[1] == 0:
        raise ConfigurationError(f"vectors must be (N, d) with d of 1 or more, got shape {tuple(batch.shape)}")


def _checked_weights(weights: Tensor, batch: Tensor, first_row: int, device: torch.device) -> Tensor:
    if weights.shape != batch.shape[:1]:
        raise ConfigurationError(
            f"weights {tuple(weights.shape)} for {len(batch)} vectors: give one weight for each vector"
        )
    factors = weights.to(device, torch.float64)
    wrong = (~((factors >= 0) & factors.isfinite())).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise ConfigurationError(f"weight {first_row + row} is {float(factors[row])}: must be 0 or a positive number")
    return factors


def _segments(
    batches: Iterable[tuple[Tensor, Tensor | None]], first_row: int, dtype: torch.dtype
) -> Iterator[CentralSums]:
    """Yield the sums of the rows; several where the mean moves far between them."""
    running: Accumulator | None = None
    for block in _blocks(batches, first_row):
        if running is None or not running.add(block):
            if running is not None:
                yield running.finish()
            running = Accumulator(block, dtype)
            running.add(block)
    if running is not None:
        yield running.finish()


def _blocks(batches: Iterable[tuple[Tensor, Tensor | None]], row: int) -> Iterator[Block]:
    """Yield checked blocks of rows; a batch without a row is a block."""
    d: int | None = None
    for batch, weights in batches:
        check_rows(batch)
        d = d or batch.shape[1]
        if batch.shape[1] != d:
            raise ConfigurationError(f"moments of vectors with {d} and with {batch.shape[1]} numbers cannot be merged")
        device = torch.device("cpu") if batch.device.type == "mps" else batch.device  # MPS has no float64
        factors = None if weights is None else _checked_weights(weights, batch, row, device)
        reject = functools.partial(_reject, batch, row)
        for start in range(0, max(len(batch), 1), _BLOCK_ROWS):
            stop = start + _BLOCK_ROWS
            rows = batch[start:stop].detach().to(device)
            yield Block(rows, None if factors is None else factors[start:stop], row + start, reject)
        row += len(batch)


def _reject(batch: Tensor, first_row: int, dtype: torch.dtype) -> NoReturn:
    bad = []
    for start in range(0, len(batch), _BLOCK_ROWS):
        finite = batch[start : start + _BLOCK_ROWS].isfinite().all(1)
        bad += (first_row + start + (~finite).nonzero().flatten()).tolist()
    if not bad:
        kind = str(dtype).removeprefix("torch.")
        last = first_row + len(batch) - 1
        raise ConfigurationError(
            f"rows {first_row} to {last}: numbers too large for {kind}, which cannot hold their squares. Rescale them"
        )
    names = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    raise ConfigurationError(
        f"the vectors hold NaN or infinity in {len(bad)} row(s): {names}. Leave them out or correct them"
    )
