"""The Gram penalties: squared distances of the filters from an orthonormal set.

Kernels have shape ``(..., k, d)``; W below is the (d, k) matrix whose columns are the filters. Sources: Brock et al.
2017 and 2019 (BigGAN) for the two Frobenius forms, Bansal et al. 2018 for the spectral form.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._closed_form import closed_gram_penalty
from ortho_lightning.functional._precision import full_precision, off_diagonal


@full_precision
def gram_penalty(
    kernel: Tensor,
    off_diagonal: bool = False,
    norm: Literal["fro", "spectral"] = "fro",
    total: int | None = None,
) -> Tensor:
    r"""Return the squared distance of the Gram matrix from the identity, :math:`|W^\top W - I|^2`; groups add.

    - ``norm="fro"``: sum of squares. Its floor is k - d when k > d. Cost ``k d min(k, d)``; off the diagonal ``k^2 d``.
    - ``off_diagonal=True``: :math:`|(W^\top W) * (1 - I)|_F^2` (BigGAN), which leaves the lengths of the filters free.
    - ``norm="spectral"``: squared spectral norm, :math:`\max_i (\lambda_i - 1)^2` over the eigenvalues of the smaller
      of :math:`W^\top W` and :math:`W W^\top`: the larger one would give at least 1 when k > d, without a gradient.

    Args:
        kernel: ``(..., k, d)``, floating point.
        off_diagonal: leave out the diagonal.
        norm: "fro" or "spectral"; the spectral norm goes with ``off_diagonal=False`` only.
        total: number of the filters of which these k are a random subset: their penalty is estimated, without bias.
            None: these are all. With the Frobenius norm only.

    Returns:
        A scalar, 0 or more up to rounding, float32 or better.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions, an unknown norm, a combination that has no definition, or a
            total below k.

    Example:
        >>> gram_penalty(torch.eye(3)).item(), gram_penalty(2 * torch.eye(3)).item()
        (0.0, 27.0)
    """
    check_gram_arguments(off_diagonal, norm)
    k, d = kernel.shape[-2:]
    if total is not None and (total < k or norm == "spectral"):
        raise ConfigurationError(
            f"total={total} with norm={norm!r}: must be the {k} filters here or more, with norm='fro'"
        )
    if norm == "fro":
        return closed_gram_penalty(kernel, off_diagonal, k if total is None else total)
    gram = kernel @ kernel.mT if k <= d else kernel.mT @ kernel
    return (torch.linalg.eigvalsh(gram) - 1).square().amax(-1).sum()


@full_precision
def gram_matrix(kernel: Tensor, target: float | None = 1.0) -> Tensor:
    r"""Return the inner products of the filters minus the target on the diagonal, :math:`W^\top W - s I`.

    Args:
        kernel: ``(..., k, d)``, floating point.
        target: s; None: zeros on the diagonal, whatever the lengths.

    Returns:
        ``(..., k, k)``, float32 or better.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for fewer than two dimensions.

    Example:
        >>> gram_matrix(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        tensor([[0., 1.],
                [1., 4.]])
    """
    products = kernel @ kernel.mT
    if target is None:
        return off_diagonal(products)
    return products - target * torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)


def check_gram_arguments(off_diagonal: bool, norm: str) -> None:
    """Reject an unknown norm, and the spectral norm of the off-diagonal part."""
    if norm not in ("fro", "spectral"):
        raise ConfigurationError(f"norm={norm!r}: must be 'fro' or 'spectral'")
    if off_diagonal and norm == "spectral":
        raise ConfigurationError("norm='spectral' with off_diagonal=True is not defined: use norm='fro'")
