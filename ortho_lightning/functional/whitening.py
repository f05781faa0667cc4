r"""Whitening with the hyper-parameters beta, gamma and k.

.. math:: \tilde x = (x - \beta\mu) U \Lambda^{-\gamma/2},\qquad
          \Sigma(\beta) = \tfrac{1}{N}\sum (x-\beta\mu)^\top(x-\beta\mu) = U \Lambda U^\top,

first k columns, eigenvalues from large to small. beta = gamma = 1 is BERT-whitening, beta = 1 and gamma = 0 principal
components, beta = gamma = 0 the singular value decomposition of the vectors as they are. Everything comes from the
:class:`~ortho_lightning.functional.Moments` of the vectors. Formulas: J. Su, article 9079 (kexue.fm).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.moments import Moments

_WIDEST_ON_ONE_THREAD = 1024
_EXACT = torch.finfo(torch.float64).eps


def principal_axes(
    moments: Moments, beta: float = 1.0, shrinkage: float = 0.0, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Return the eigenvalues and eigenvectors of :math:`\Sigma(\beta)`, with signs that do not vary.

    Args:
        moments: moments of two or more vectors.
        beta: share of the mean that is subtracted; 1: all, 0: nothing.
        shrinkage: share of the mean variance in every direction; see :meth:`Moments.second_moment`.
        eps: added to every eigenvalue.

    Returns:
        Eigenvalues ``(d,)`` from large to small, 0 or more, and U ``(d, d)`` with an eigenvector a column whose entry
        of largest magnitude is positive (the first of them, where some are as large up to rounding). float64.

    Raises:
        ConfigurationError: for fewer than two vectors, or a beta that is not a finite number.

    Example:
        >>> eigenvalues, axes = principal_axes(Moments.of(torch.tensor([[3.0, 0.0], [-3.0, 0.0]])))
        >>> eigenvalues.tolist(), axes.abs().tolist()
        ([9.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    """
    if moments.count < 2:
        raise ConfigurationError(f"{moments.count} vector(s): whitening needs two or more")
    if not math.isfinite(beta):
        raise ConfigurationError(f"beta={beta}: must be a finite number; 1 subtracts the mean, 0 does not")
    with _one_thread(moments.d):
        eigenvalues, axes = torch.linalg.eigh(moments.second_moment(beta, shrinkage))
    eigenvalues, axes = eigenvalues.flip(0).clamp_min(0.0) + eps, axes.flip(1)
    sizes = axes.abs()
    # of entries equal up to rounding the first decides, so that rounding does not
    largest = (sizes >= (1 - 1e-8) * sizes.amax(0)).to(torch.int8).argmax(0)
    return eigenvalues, axes * torch.where(axes.gather(0, largest[None]) < 0, -1.0, 1.0)


@contextlib.contextmanager
def _one_thread(d: int) -> Iterator[None]:
    """Use one thread for a small decomposition, a sequence of thousands of short products.

    Divided between threads, each product waits for the slowest: on a machine with other work that took ten seconds at
    d = 384, and one thread alone takes a twentieth of one.
    """
    threads = torch.get_num_threads()
    if d > _WIDEST_ON_ONE_THREAD or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def numerical_rank(eigenvalues: Tensor, precision: float = _EXACT) -> int:
    r"""Count the eigenvalues above the rounding error of the largest, :math:`d \epsilon \lambda_{max}`.

    Args:
        eigenvalues: ``(d,)``.
        precision: :math:`\epsilon`, that of float64 by default; see :attr:`Moments.precision`.

    Example:
        >>> numerical_rank(torch.tensor([4.0, 1.0, 1e-17]))
        2
    """
    threshold = len(eigenvalues) * precision * eigenvalues.amax()
    return int((eigenvalues > threshold).sum())


def whitening_scales(eigenvalues: Tensor, gamma: float = 1.0, precision: float = _EXACT) -> Tensor:
    r"""Return each component's factor, :math:`\lambda^{-\gamma/2}`, and 0 beyond the rank when gamma > 0.

    Args:
        eigenvalues: ``(d,)`` from large to small.
        gamma: 0 or more; 1 gives every component variance 1 (at beta = 1), 0 leaves the variances as they are.
        precision: as for :func:`numerical_rank`.

    Raises:
        ConfigurationError: for a gamma that is negative or not finite.

    Example:
        >>> whitening_scales(torch.tensor([4.0, 1.0, 0.0])).tolist()
        [0.5, 1.0, 0.0]
    """
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise ConfigurationError(f"gamma={gamma}: must be 0 or a positive number")
    if gamma == 0:
        return torch.ones_like(eigenvalues)
    counts = torch.arange(len(eigenvalues), device=eigenvalues.device) < numerical_rank(eigenvalues, precision)
    return torch.where(counts, torch.where(counts, eigenvalues, 1.0) ** (-gamma / 2), 0.0)


def effective_rank(eigenvalues: Tensor) -> float:
    r"""Return the number of directions that share the variance, :math:`\exp(-\sum_i p_i \ln p_i)`.

    p are the eigenvalues divided by their sum. From 1 (a line) to d (the same variance in every direction); 0 where
    there is no variance. Source: Roy and Vetterli 2007, "The effective rank".

    Example:
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 0.0])), 6)
        2.0
    """
    total = eigenvalues.sum()
    if total <= 0:
        return 0.0
    return float(torch.special.entr(eigenvalues.double() / total.double()).sum().exp())


def unit_sum(vectors: Tensor) -> tuple[Tensor, int]:
    """Return the sum ``(d,)`` of the rows of ``(N, d)`` divided by their lengths, and the number of non-zero rows.

    The sum is float64. Both add up over batches and processes; :func:`mean_cosine` needs nothing else.
    """
    vectors = vectors.double()
    # divided by the largest entry first, so that squares neither overflow nor vanish
    largest = vectors.abs().amax(1, keepdim=True)
    kept = largest.flatten() > 0
    vectors = vectors[kept] / largest[kept]
    return (vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)).sum(0), int(kept.sum())


def mean_cosine(total: Tensor, count: int) -> float:
    r"""Return the mean cosine between two different vectors of a set, their anisotropy.

    From the sum of the unit vectors alone: :math:`(|\sum_a \hat x_a|^2 - N) / (N (N - 1))`, which is the squared length
    of the mean with the N pairs of a vector with itself left out. About 0 for vectors in evenly distributed directions,
    1 for parallel ones.

    Args:
        total: sum of N unit vectors, ``(d,)``; see :func:`unit_sum`.
        count: N.

    Returns:
        A number in [-1/(N-1), 1]; NaN for fewer than two vectors.

    Example:
        >>> mean_cosine(*unit_sum(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])))
        0.3333333333333333
    """
    if count < 2:
        return math.nan
    return (float(total.square().sum()) - count) / (count * (count - 1))
