"""Similarity between two sets of filters, or between the groups of one: adapters of two tasks, heads, experts.

Kernels have shape ``(..., k, d)``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import full_precision, unit

CrossNorm = Literal["l1", "fro"]


@full_precision
def cross_gram_penalty(kernel: Tensor, anchor: Tensor, norm: CrossNorm = "l1") -> Tensor:
    r"""Return the size of the inner products between two sets of filters, :math:`K A^\top`; groups add.

    0 where every filter is orthogonal to every filter of the anchor, however long they are. Source: O-LoRA (Wang et al.
    2023, arXiv 2310.14152), whose article has the squares and whose code the absolute values.

    Args:
        kernel: ``(..., k, d)``, floating point.
        anchor: ``(..., m, d)``, which gets no gradient; its leading dimensions broadcast.
        norm: "l1": :math:`\sum |k_i \cdot a_j|`; "fro": :math:`\sum (k_i \cdot a_j)^2`.

    Returns:
        A scalar, 0 or more, float32 or better.

    Raises:
        ArgumentTypeError: for a kernel that is not floating point.
        ConfigurationError: for fewer than two dimensions, filters of another dimension, or an unknown norm.

    Example:
        >>> import torch
        >>> cross_gram_penalty(torch.eye(3)[:2], torch.tensor([[2.0, 0.0, 5.0]])).item()
        2.0
    """
    check_cross_norm(norm)
    if anchor.dim() < 2 or anchor.shape[-1] != kernel.shape[-1]:
        raise ConfigurationError(
            f"anchor of shape {tuple(anchor.shape)}: its filters need the {kernel.shape[-1]} numbers of the filters "
            f"that they are compared with, {tuple(kernel.shape)}"
        )
    products = kernel @ anchor.detach().to(kernel).mT
    return products.abs().sum() if norm == "l1" else products.square().sum()


def check_cross_norm(norm: str) -> None:
    """Reject an unknown norm."""
    if norm not in ("l1", "fro"):
        raise ConfigurationError(f"norm={norm!r}: must be 'l1' or 'fro'")


@full_precision
def group_similarity(kernel: Tensor) -> Tensor:
    r"""Return the mean squared cosine between filters of different groups.

    :math:`\frac{1}{G(G-1)k^2} \sum_{g \ne h} \sum_{ij} c_{gi,hj}^2`: filters of one group may be alike, those of
    different groups may not. With one filter a group it is the mean of the squared cosines of all pairs, which is a
    router's penalty; with attention heads as groups it is 0 where the heads read orthogonal subspaces.

    Args:
        kernel: ``(groups, k, d)``, floating point.

    Returns:
        A scalar in [0, 1] up to rounding, float32 or better; a zero filter has no similarity to any other.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for another number of dimensions, or fewer than two groups.

    Example:
        >>> import torch
        >>> same = torch.eye(2, 3).expand(2, 2, 3)
        >>> group_similarity(same).item(), group_similarity(torch.eye(4).unflatten(0, (2, 2))).item()
        (0.5, 0.0)
    """
    if kernel.dim() != 3 or kernel.shape[0] < 2:
        raise ConfigurationError(f"kernel of shape {tuple(kernel.shape)}: give (groups, k, d) with two or more groups")
    groups, k, _ = kernel.shape
    directions = unit(kernel, dim=-1)
    between = _squared_products(directions.flatten(0, 1)) - _squared_products(directions).sum()
    return between / (groups * (groups - 1) * k * k)


def _squared_products(directions: Tensor) -> Tensor:
    """Return the sum of all squared inner products, through the smaller of both products."""
    k, d = directions.shape[-2:]
    product = directions @ directions.mT if k <= d else directions.mT @ directions
    return product.square().sum((-2, -1))
