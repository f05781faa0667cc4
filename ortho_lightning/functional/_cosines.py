"""Cosines between filters in two matrix products: one forward, and one backward where automatic ones make two.

No copy of the kernel but one is made, scaled by each filter's largest number so that no square overflows; the lengths
are read from the diagonal of the products. A second derivative goes through the formula as it reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ortho_lightning.functional._precision import unit


def closed_cosines(kernel: Tensor) -> Tensor:
    r"""Return :math:`c_{ij} = S_{ij} a_i a_j`, with :math:`S = W W^\top` and :math:`a_i = S_{ii}^{-1/2}`.

    With G the derivative by the cosines, made symmetric and without its diagonal, the derivative by W is
    :math:`M W`, where off the diagonal :math:`M_{ij} = a_i G_{ij} a_j` and on it
    :math:`M_{ii} = -a_i^2 \sum_j G_{ij} c_{ij}`.

    Args:
        kernel: ``(..., k, d)``, float32 or better.

    Returns:
        ``(..., k, k)``; the diagonal is 1, or 0 where a filter is zero, whose gradient is 0.
    """
    cosines: Tensor = _Cosines.apply(kernel)[0]
    return cosines


class _Cosines(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the cosines; for the derivatives the scaled kernel, its factor, and the inverse of its lengths."""
        scale = _scale(kernel)
        rows = kernel * scale
        products = rows @ rows.mT
        squares = products.diagonal(dim1=-2, dim2=-1)
        counts = squares != 0  # true for NaN
        inverse = torch.where(counts, torch.where(counts, squares, 1.0).rsqrt(), 0.0)
        products *= inverse.unsqueeze(-1)
        products *= inverse.unsqueeze(-2)
        products.diagonal(dim1=-2, dim2=-1).copy_(torch.where(squares.isnan(), squares, counts.to(squares.dtype)))
        return products, rows, scale, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cosines, rows, scale, inverse = output
        ctx.mark_non_differentiable(rows, scale, inverse)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], cosines, rows, scale, inverse)
        ctx.save_for_forward(inputs[0], cosines, rows, scale, inverse)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> Tensor | None:
        kernel, cosines, rows, scale, inverse = ctx.saved_tensors
        if upstream is None:
            return None
        with torch.autocast(kernel.device.type, enabled=False):
            if torch.is_grad_enabled():
                return torch.autograd.grad(_cosines(kernel), kernel, upstream, create_graph=True)[0]
            factor = upstream + upstream.mT
            factor.diagonal(dim1=-2, dim2=-1).zero_()
            own = (factor * cosines).sum(-1) * inverse
            factor *= inverse.unsqueeze(-1)
            factor *= inverse.unsqueeze(-2)
            factor.diagonal(dim1=-2, dim2=-1).copy_(-own * inverse)
            return (factor @ rows).mul_(scale)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None, None]:
        _, cosines, rows, scale, inverse = ctx.saved_tensors
        moved = (tangent * scale) @ rows.mT
        change = (moved + moved.mT) * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
        longer = change.diagonal(dim1=-2, dim2=-1) / 2
        change = change - cosines * (longer.unsqueeze(-1) + longer.unsqueeze(-2))
        return change, None, None, None


def _scale(kernel: Tensor) -> Tensor:
    """Return 1 over each filter's largest number, 0 where that is near the smallest number of the dtype."""
    if kernel.shape[-1] == 0:
        return kernel.new_zeros((*kernel.shape[:-1], 1))
    largest = kernel.abs().amax(-1, keepdim=True)
    counts = ~(largest <= 1e6 * torch.finfo(kernel.dtype).tiny)  # true for NaN
    return torch.where(counts, 1 / torch.where(counts, largest, 1.0), 0.0)


def _cosines(kernel: Tensor) -> Tensor:
    directions = unit(kernel, dim=-1)
    return directions @ directions.mT
