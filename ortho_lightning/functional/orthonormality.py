"""Distance of a set of filters from an orthonormal one, not squared, as adapters of low rank are regularized.

Kernels have shape ``(..., k, d)``. Sources: Zhang et al. 2023 (AdaLoRA, arXiv 2303.10512) and Wang et al. 2024 (KaSA,
arXiv 2412.06071), in the form of the package peft.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ortho_lightning.functional._precision import full_precision
from ortho_lightning.functional.gram import gram_matrix


@full_precision
def orthonormality_distance(kernel: Tensor) -> Tensor:
    r"""Return :math:`|K K^\top - I|_F`, the filters of K as rows; groups add.

    Unlike :func:`~ortho_lightning.functional.gram_penalty` it is not squared: its gradient does not fade as the filters
    come close. At 0 its gradient is 0. It is at least :math:`\sqrt{k - d}` when k > d.

    Args:
        kernel: ``(..., k, d)``, floating point.

    Returns:
        A scalar, 0 or more, float32 or better.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.

    Example:
        >>> orthonormality_distance(2 * torch.eye(4)).item()  # four times 3 on the diagonal
        6.0
    """
    return torch.linalg.vector_norm(gram_matrix(kernel), dim=(-2, -1)).sum()
