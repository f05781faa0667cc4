r"""Sums over vectors, block by block: the state behind :meth:`~ortho_lightning.functional.Moments.of`.

All sums are taken about a centre close to the mean, which stays the same from block to block, and are moved to the mean
at the end. The centre may be any point: it only has to be so close that the move loses no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError

# Bands of the symmetric product, each computed from its diagonal block rightwards.
_PANELS = 4


@dataclass(frozen=True, eq=False)
class CentralSums:
    r"""Weighted sums of vectors about their mean, :math:`y_a = x_a - \mu`.

    Attributes:
        count: number of vectors.
        weighted: whether any vector came with a weight.
        total: :math:`\sum_a w_a`.
        squares: :math:`\sum_a w_a^2`.
        mean: ``(d,)``.
        scatter: :math:`\sum_a w_a y_a^\top y_a`, ``(d, d)``, symmetric to the bit.
        cubic: :math:`\sum_a w_a |y_a|^2 y_a`, ``(d,)``.
        quartic: :math:`\sum_a w_a |y_a|^4`, ``()``.
    """

    count: int
    weighted: bool
    total: float
    squares: float
    mean: Tensor
    scatter: Tensor
    cubic: Tensor
    quartic: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a batch.

    Attributes:
        rows: ``(n, d)``.
        weights: ``(n,)`` float64; None: 1 each.
        first_row: number of the first of them.
        reject: raises the error for rows whose squares are not finite.
    """

    rows: Tensor
    weights: Tensor | None
    first_row: int
    reject: Callable[[torch.dtype], NoReturn]


class Accumulator:
    """Sums about a centre that grow in place, with one buffer for a block.

    A block that would take the mean far from the centre is not added: :meth:`add` returns False, and the caller starts
    another accumulator. So moving the sums to the mean costs no more than one bit.

    Args:
        first: the first block, whose mean becomes the centre.
        dtype: that the products are computed in, float64 or float32; all other sums are float64.
    """

    def __init__(self, first: Block, dtype: torch.dtype) -> None:
        d, device = first.rows.shape[1], first.rows.device
        self.weighted = first.weights is not None
        self.count = 0
        self._total = 0.0
        self._squares = 0.0
        self._energy = 0.0  # of |y|^2
        self._buffer = torch.empty(*first.rows.shape, dtype=dtype, device=device)
        # a number of the products' dtype, so that what is subtracted and what is added back are equal
        self._centre = _approximate_mean(first, self._buffer).to(dtype).double()
        self._sums = torch.zeros(2, d, dtype=torch.float64, device=device)  # of y, and of |y|^2 y
        self._quartic = torch.zeros((), dtype=torch.float64, device=device)
        self._scatter = torch.zeros(d, d, dtype=torch.float64, device=device)

    def add(self, block: Block) -> bool:
        """Add a block, unless the mean would then be far from the centre.

        Raises:
            ConfigurationError: for NaN or infinity, and for numbers whose squares overflow, naming rows.
        """
        if len(block.rows) > len(self._buffer):
            self._buffer = self._buffer.new_empty(block.rows.shape)
        if not len(block.rows):
            return True
        with torch.autocast(block.rows.device.type, enabled=False):
            return self._add(block, block.weights)

    def _add(self, block: Block, weights: Tensor | None) -> bool:
        rows = self._buffer[: len(block.rows)]
        rows.copy_(block.rows).sub_(self._centre.to(rows.dtype))
        lengths = torch.linalg.vector_norm(rows, dim=1).double().square_()
        energy = float(lengths.sum() if weights is None else weights @ lengths)
        if not math.isfinite(energy):
            block.reject(rows.dtype)
        self.weighted |= weights is not None
        factors = torch.ones_like(lengths) if weights is None else weights
        sums = self._sums + (torch.stack([factors, factors * lengths]).to(rows.dtype) @ rows).double()
        total = self._total + float(factors.sum())
        if self.count and float(sums[0].square().sum()) > 0.5 * total * (self._energy + energy):
            return False
        self._total, self._sums, self._energy = total, sums, self._energy + energy
        self._squares += float(factors.square().sum())
        self._quartic += factors @ lengths.square()
        self._multiply(rows if weights is None else rows.mul_(weights.sqrt()[:, None].to(rows.dtype)))
        self.count += len(rows) if weights is None else int((weights > 0).sum())
        return True

    def _multiply(self, rows: Tensor) -> None:
        """Add the upper triangle of the product of the rows with themselves, in bands.

        The symmetric product of BLAS, which torch does not offer, does fewer multiplications, but its threads and those
        of torch wait for each other: with two of each a fit took three times as long.
        """
        d = rows.shape[1]
        width = -(-d // _PANELS)
        for left in range(0, d, width):
            right = min(left + width, d)
            band = self._scatter[left:right, left:]
            if rows.dtype == band.dtype:
                band.addmm_(rows[:, left:right].mT, rows[:, left:])
            else:
                band += rows[:, left:right].mT @ rows[:, left:]

    def finish(self) -> CentralSums:
        """Return the sums about the mean."""
        scatter = self._scatter.triu() + self._scatter.triu(1).mT
        if not scatter.isfinite().all():
            raise ConfigurationError("the vectors are too large for their squares: rescale them")
        shift = self._sums[0] / max(self._total, torch.finfo(torch.float64).tiny)
        sums = CentralSums(
            self.count, self.weighted, self._total, self._squares, self._centre, scatter, self._sums[1], self._quartic
        )
        return _moved(sums, shift)


def _moved(sums: CentralSums, shift: Tensor) -> CentralSums:
    """Return sums about the mean, from sums about ``sums.mean``, which is the mean minus ``shift``."""
    length = shift.square().sum()
    scatter = sums.scatter - sums.total * torch.outer(shift, shift)
    spread, turned = scatter.trace(), scatter @ shift
    cubic = sums.cubic - spread * shift - 2 * turned - sums.total * length * shift
    quartic = (
        sums.quartic - 4 * (cubic @ shift) - 4 * (turned @ shift) - 2 * length * spread - sums.total * length.square()
    )
    return replace(sums, mean=sums.mean + shift, scatter=scatter, cubic=cubic, quartic=quartic)


def _approximate_mean(block: Block, buffer: Tensor) -> Tensor:
    """Return a point near the mean; exactly the value of a column that is constant."""
    rows, weights = buffer.copy_(block.rows), block.weights
    if not len(rows):
        return torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    origin = rows[0].clone()
    rows.sub_(origin)
    shift = rows.sum(0).double() / len(rows) if weights is None else (weights @ rows.double()) / weights.sum()
    return origin.double() + shift.nan_to_num(0.0, 0.0, 0.0)
