"""Angles between filters estimated by locality-sensitive hashing (LSH), and the penalty on them.

The signs of two filters' outputs agree on a random input with probability ``1 - theta / pi``, so the outputs of a layer
estimate the angles between its filters. Outputs have shape ``(..., n, k)``: n samples of k filters, without bias;
leading dimensions are groups. Formulas: J. Su, article 7169 (kexue.fm); "Self-Orthogonality Module", arXiv 2001.01275.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ortho_lightning.functional._closed_form import closed_lsh_penalties
from ortho_lightning.functional._lsh_formula import (
    Reduction,
    check_gamma,
    check_lsh_arguments,
    lsh_formula,
    over_groups,
    penalty_of_similarity,
    signs,
)
from ortho_lightning.functional._precision import full_precision, unit
from ortho_lightning.functional.angles import pairwise_cosines


@full_precision
def lsh_similarity(outputs: Tensor, gamma: float | None = 10.0) -> Tensor:
    r"""Estimate the similarity of filters from the signs of their outputs, :math:`\vartheta = 1 - 2\theta/\pi`.

    With :math:`y = \tanh(\gamma z)` and :math:`\hat y_j = y_j / |y_j|` over the n samples,
    :math:`\vartheta = \hat Y^\top \hat Y`. ``gamma=None`` takes the hard sign, with sgn(0) = -1 as in the article.

    Args:
        outputs: ``(..., n, k)`` pre-activations without bias, floating point.
        gamma: slope of the smooth sign, above 0; None: the sign itself (no gradient).

    Returns:
        ``(..., k, k)`` in [-1, 1], float32 or better; rows and columns of an all-zero filter are 0 (smooth sign).

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions, or a gamma that is not a positive number.

    Example:
        >>> lsh_similarity(torch.tensor([[3.0, 2.0, -1.0], [-5.0, -4.0, -1.0]]), gamma=None).round(decimals=3)
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]])
    """
    check_gamma(gamma)
    directions = unit(signs(outputs, gamma), dim=-2)
    return directions.mT @ directions


@full_precision
def lsh_penalty(
    outputs: Tensor,
    lambda1: float = 100.0,
    lambda2: float = 1.0,
    gamma: float | None = 10.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the penalty on the LSH similarities of the filters that produced ``outputs``.

    :math:`\lambda_1 (\sum_{i \ne j} \vartheta_{ij})^2 + \lambda_2 \sum_{i \ne j} \vartheta_{ij}^2`; with
    ``reduction="mean"`` both sums are means over the k(k-1) ordered pairs. The first term moves the mean angle to 90
    degrees, the second narrows their distribution. Groups are averaged ("mean") or added ("sum").

    The gradient is computed in closed form. A filter whose outputs are all tiny (in float32, a root of the sum of
    squared signs below about 1e-12) counts as zero.

    No k x k matrix is made when there are fewer samples than filters: the first term is
    :math:`|\sum_j \hat y_j|^2 - \sum_j |\hat y_j|^2`, the second takes the smaller of the two Gram matrices.

    Args:
        outputs: ``(..., n, k)`` pre-activations without bias, floating point.
        lambda1: weight of the mean, 0 or more.
        lambda2: weight of the squares, 0 or more.
        gamma: slope of the smooth sign, above 0; None: the hard sign, which has no gradient.
        reduction: "mean" or "sum".

    Returns:
        A scalar, 0 or more up to rounding, float32 or better; 0 where there is no pair.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`lsh_similarity`; the latter for a bad lambda or reduction.

    Example:
        >>> lsh_penalty(torch.eye(4)).item()  # no two filters respond to the same sample
        0.0
    """
    return over_groups(lsh_penalties(outputs, lambda1, lambda2, gamma, reduction), reduction)


@full_precision
def lsh_penalties(
    outputs: Tensor,
    lambda1: float = 100.0,
    lambda2: float = 1.0,
    gamma: float | None = 10.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return :func:`lsh_penalty` of each group, ``(..., n, k) -> (...)``; arguments and errors are the same."""
    check_lsh_arguments(lambda1, lambda2, reduction)
    check_gamma(gamma)
    if gamma is None:
        return lsh_formula(outputs, lambda1, lambda2, None, reduction)
    return closed_lsh_penalties(outputs, lambda1, lambda2, gamma, reduction)


def lsh_similarity_exact(kernel: Tensor) -> Tensor:
    r"""Return the similarity for isotropic inputs in closed form, :math:`\vartheta = \frac{2}{\pi} \arcsin c_{ij}`.

    Args:
        kernel: ``(..., k, d)``, floating point.

    Returns:
        ``(..., k, k)`` in [-1, 1]; the gradient is 0 where two filters are exactly parallel, and finite elsewhere.

    Raises:
        ArgumentTypeError, ConfigurationError: as :func:`~ortho_lightning.functional.pairwise_cosines`.
    """
    cosines = pairwise_cosines(kernel)
    # arcsin has an infinite slope at +-1, which times the zero slope of the cosine there would give NaN
    inside = ~(cosines.abs() >= 1)  # true for NaN
    return torch.where(inside, 2 / math.pi * torch.arcsin(torch.where(inside, cosines, 0.0)), cosines.detach().sign())


@full_precision
def similarity_penalty(
    similarity: Tensor, lambda1: float = 100.0, lambda2: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return the penalty of :func:`lsh_penalty` on similarities ``(..., k, k)`` from any source; a scalar."""
    check_lsh_arguments(lambda1, lambda2, reduction)
    return over_groups(penalty_of_similarity(similarity, lambda1, lambda2, reduction), reduction)


@full_precision
def lsh_statistics(outputs: Tensor, gamma: float = 10.0) -> Tensor:
    """Return the inner products ``Y^T Y`` of the smooth signs, ``(..., n, k) -> (..., k, k)``.

    They add up over batches and processes; :func:`similarity_from_statistics` turns the sum into the similarity of the
    joined batch.
    """
    check_gamma(gamma)
    smooth = signs(outputs, gamma)
    return smooth.mT @ smooth


@full_precision
def similarity_from_statistics(statistics: Tensor) -> Tensor:
    """Return similarities ``(..., k, k)`` from sums of :func:`lsh_statistics`, divided by the filters' lengths."""
    squares = statistics.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).rsqrt(), 0.0)
    return statistics * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)


def lsh_penalty_floor(
    n: int, k: int, lambda1: float = 100.0, lambda2: float = 1.0, reduction: Reduction = "mean"
) -> float:
    r"""Return the mean of :func:`lsh_penalty` for exactly orthogonal filters under isotropic inputs.

    n samples estimate a similarity with variance 1/n, so the penalty is not 0 but
    :math:`(2\lambda_1 + \lambda_2) k(k-1)/n` as a sum and :math:`2\lambda_1/(n k (k-1)) + \lambda_2/n` as a mean (of
    one group). It holds for every n from 1 on and for smooth signs too, if the samples are independent.

    It is a mean and no bound: the first term is as skewed as a chi-squared variable squared. With one sample and 8
    filters, nine penalties of ten are below it; with 16 samples two of three. With ``lambda1=0`` and one sample every
    penalty is equal to it.

    Args:
        n: number of samples; the floor is infinite at 0.
        k: number of filters.
        lambda1: weight of the squared mean.
        lambda2: weight of the squares.
        reduction: "mean" or "sum".
    """
    if k < 2:
        return 0.0
    if n == 0:
        return math.inf
    pairs = k * (k - 1)
    return (2 * lambda1 + lambda2) * pairs / n if reduction == "sum" else (2 * lambda1 / pairs + lambda2) / n


@torch.no_grad()
@full_precision
def lsh_active_fraction(outputs: Tensor, gamma: float = 10.0) -> Tensor:
    """Return the fraction of the outputs through which a gradient passes.

    There the slope of tanh(gamma z) is above 1% of its largest. At a fraction near 0 the sign is saturated everywhere
    and the penalty has almost no gradient: lower gamma, or divide by the root mean square. NaN without outputs.
    """
    return (1 - torch.tanh(gamma * outputs).square() > 0.01).to(outputs.dtype).mean()


@full_precision
def rms_normalize(outputs: Tensor) -> Tensor:
    """Divide outputs ``(..., n, k)`` by each filter's root mean square; zero columns stay zero."""
    return unit(outputs, dim=-2) * math.sqrt(outputs.shape[-2])
