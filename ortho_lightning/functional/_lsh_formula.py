"""The LSH penalty as its formula reads, for automatic differentiation, and the checks of its arguments.

:mod:`~ortho_lightning.functional._closed_form` gives the same values and first derivatives in fewer products.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import off_diagonal, unit

Reduction = Literal["mean", "sum"]


def lsh_formula(
    outputs: Tensor, lambda1: float, lambda2: float, gamma: float | None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the penalty of each group, ``(..., n, k) -> (...)``, from the smaller of the two Gram matrices."""
    directions = unit(signs(outputs, gamma), dim=-2)
    n, k = directions.shape[-2:]
    if n >= k:
        return penalty_of_similarity(directions.mT @ directions, lambda1, lambda2, reduction)
    lengths = directions.square().sum(-2)  # 1, or 0 for a zero column
    total = directions.sum(-1).square().sum(-1) - lengths.sum(-1)
    squares = (directions @ directions.mT).square().sum((-2, -1)) - lengths.square().sum(-1)
    return _combine(total, squares, k, lambda1, lambda2, reduction)


def penalty_of_similarity(similarity: Tensor, lambda1: float, lambda2: float, reduction: Reduction) -> Tensor:
    """Return the penalty of each group from similarities, ``(..., k, k) -> (...)``."""
    similarity = off_diagonal(similarity)
    total, squares = similarity.sum((-2, -1)), similarity.square().sum((-2, -1))
    return _combine(total, squares, similarity.shape[-1], lambda1, lambda2, reduction)


def signs(outputs: Tensor, gamma: float | None) -> Tensor:
    """Return the smooth signs tanh(gamma z), or the hard ones, with sgn(0) = -1, for ``gamma=None``; NaN of NaN."""
    if gamma is None:
        return torch.where(outputs > 0, 1.0, -1.0).to(outputs.dtype) + 0.0 * outputs.clamp(-1.0, 1.0)
    return torch.tanh(gamma * outputs)


def pair_weights(k: int, lambda1: float, lambda2: float, reduction: Reduction) -> tuple[float, float]:
    """Return the factors of the squared sum and of the sum of squares over the k(k-1) ordered pairs."""
    pairs = 1 if reduction == "sum" else max(k * (k - 1), 1)
    return lambda1 / pairs**2, lambda2 / pairs


def over_groups(penalties: Tensor, reduction: Reduction, dim: int | None = None) -> Tensor:
    """Average penalties of groups ("mean"; 0 where there is none) or add them ("sum"), over all dimensions or one."""
    total = penalties.sum() if dim is None else penalties.sum(dim)
    return total if reduction == "sum" else total / max(penalties.numel() // max(total.numel(), 1), 1)


def check_gamma(gamma: float | None) -> None:
    """Reject a slope that is not a positive number."""
    if gamma is not None and not (gamma > 0 and math.isfinite(gamma)):
        raise ConfigurationError(
            f"gamma={gamma}: the slope of tanh(gamma z) must be a positive number; the article uses 10"
        )


def check_lsh_arguments(lambda1: float, lambda2: float, reduction: str) -> None:
    """Reject weights that are negative or not finite, and unknown reductions."""
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigurationError(f"{name}={value}: must be 0 or a positive number")
    if reduction not in ("mean", "sum"):
        raise ConfigurationError(f"reduction={reduction!r}: must be 'mean' or 'sum'")


def _combine(total: Tensor, squares: Tensor, k: int, lambda1: float, lambda2: float, reduction: Reduction) -> Tensor:
    weight1, weight2 = pair_weights(k, lambda1, lambda2, reduction)
    return weight1 * total.square() + weight2 * squares
