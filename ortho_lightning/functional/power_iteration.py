"""The spectral norm by power iteration, as fast as a few products with a vector.

Source: Bansal et al. 2018, "Can we gain more from orthogonality regularizations in training deep networks?" (arXiv
1810.09102), who draw a new vector in each call and take one step; so their value changes while the filters do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ortho_lightning.functional._precision import full_precision


@full_precision
def spectral_norm(matrix: Tensor, vector: Tensor, iterations: int = 1) -> tuple[Tensor, Tensor]:
    r"""Estimate the largest absolute eigenvalue of symmetric matrices M, and return the vector that it was found with.

    ``iterations`` times :math:`v \leftarrow M v / |M v|`, and then :math:`|M v|`: a lower bound, and the spectral norm
    where v has converged. The vector is held constant in the derivative, which is exact at convergence.

    Args:
        matrix: ``(..., m, m)``, symmetric, floating point.
        vector: ``(..., m)``, where to begin; the vector of the last call, where the matrix has changed little since.
        iterations: 1 or more.

    Returns:
        ``(...)``, 0 or more, and the vector ``(..., m)`` of length 1, without a gradient. A vector that the matrix maps
        to 0 stays as it is, so that a later matrix can use it.

    Example:
        >>> value, vector = spectral_norm(torch.diag(torch.tensor([1.0, -3.0])), torch.ones(2), iterations=20)
        >>> round(value.item(), 4), vector.abs().round(decimals=4)
        (3.0, tensor([0., 1.]))
    """
    held = matrix.detach()
    vector = vector.to(matrix).unsqueeze(-1)
    for _ in range(iterations):
        image = held @ vector
        length = torch.linalg.vector_norm(image, dim=-2, keepdim=True)
        vector = torch.where(length > 0, image / torch.where(length > 0, length, 1.0), vector)
    return torch.linalg.vector_norm(matrix @ vector, dim=(-2, -1)), vector.squeeze(-1)
