"""The penalties with their gradients in closed form: two matrix products where automatic differentiation makes three.

:func:`~ortho_lightning.functional.lsh_penalties` and :func:`~ortho_lightning.functional.gram_penalty` compute these.
A second derivative goes through the formula as it reads, by automatic differentiation. ``torch.func.grad`` and ``vmap``
work; forward-mode differentiation (``jvp``) does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ortho_lightning.functional._lsh_formula import Reduction, lsh_formula, pair_weights
from ortho_lightning.functional._precision import off_diagonal


def closed_lsh_penalties(outputs: Tensor, lambda1: float, lambda2: float, gamma: float, reduction: Reduction) -> Tensor:
    r"""Return the LSH penalty of each group, ``(..., n, k) -> (...)``, with its gradient in closed form.

    With :math:`Y = \tanh(\gamma Z)`, :math:`S = Y^\top Y`, :math:`a_j = S_{jj}^{-1/2}`,
    :math:`\vartheta_{ij} = a_i S_{ij} a_j` and :math:`G_{ij}` the derivative of the penalty by :math:`\vartheta_{ij}`
    (0 on the diagonal), the derivative by Z is :math:`2 \gamma (Y M) \cdot (1 - Y^2)`, where off the diagonal
    :math:`M_{ij} = a_i G_{ij} a_j` and on it :math:`M_{jj} = -a_j^2 \sum_i G_{ij} \vartheta_{ij}`. With fewer samples
    than filters the products are those of :math:`\hat Y \hat Y^\top`; with ``lambda2=0`` there are none.

    A filter whose smooth signs have squares near the smallest number of the dtype counts as zero (in float32, a root of
    their sum below about 1e-12).
    """
    penalties: Tensor = _LSH.apply(outputs, lambda1, lambda2, gamma, reduction)[0]
    return penalties


def closed_gram_penalty(kernel: Tensor, without_diagonal: bool, total: int) -> Tensor:
    r"""Return the Gram penalty in the Frobenius norm, a scalar, with its gradient in closed form.

    Of a random subset of ``total`` filters it is an unbiased estimate of the penalty of all: the squares on the
    diagonal and off it are weighted with the number of all there are over the number of those seen.

    The derivative of :math:`|W^\top W - I|_F^2` by W is :math:`4 W (W^\top W - I)`, from whichever of
    :math:`W^\top W` and :math:`W W^\top` is smaller; off the diagonal it is :math:`4 W (W^\top W * (1 - I))`.
    """
    penalty: Tensor = _Gram.apply(kernel, without_diagonal, total)[0]
    return penalty


class _LSH(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        z: Tensor, lambda1: float, lambda2: float, gamma: float, reduction: Reduction
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the penalty (...); for the gradient, M or the samples' Gram matrix, the sum of similarities, and a."""
        n, k = z.shape[-2:]
        weight1, weight2 = pair_weights(k, lambda1, lambda2, reduction)
        y = torch.mul(z, gamma).tanh_()
        if n < k or weight2 == 0:
            inverse = _inverse_lengths(y.square().sum(-2))
            y *= inverse.unsqueeze(-2)
            lengths = y.square().sum(-2)
            total = y.sum(-1).square().sum(-1) - lengths.sum(-1)
            products = y @ y.mT if weight2 else y.new_zeros(())
            squares = products.square().sum((-2, -1)) - lengths.square().sum(-1) if weight2 else y.new_zeros(())
            return weight1 * total.square() + weight2 * squares, products, total, inverse
        similarity = y.mT @ y
        del y  # memory is at its highest here, after the forward
        inverse = _inverse_lengths(similarity.diagonal(dim1=-2, dim2=-1))
        similarity *= inverse.unsqueeze(-1)
        similarity *= inverse.unsqueeze(-2)
        similarity.diagonal(dim1=-2, dim2=-1).zero_()
        total = similarity.sum((-2, -1))
        squares = similarity.square()
        penalty = weight1 * total.square() + weight2 * squares.sum((-2, -1))
        slope = 2 * weight1 * total.unsqueeze(-1)
        own = slope * similarity.sum(-2) + 2 * weight2 * squares.sum(-2)
        factor = similarity.mul_(2 * weight2).add_(slope.unsqueeze(-1))
        factor.diagonal(dim1=-2, dim2=-1).copy_(-own)
        return penalty, factor, total, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, *ctx.arguments = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, *output[1:])  # not Y, which z gives again: memory costs more here than tanh

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None, None, None]:
        z, factor, total, inverse = ctx.saved_tensors
        if upstream is None:
            return None, None, None, None, None
        with torch.autocast(z.device.type, enabled=False):
            if torch.is_grad_enabled():
                penalties = lsh_formula(z, *ctx.arguments)
                gradient = torch.autograd.grad(penalties, z, upstream, create_graph=True)[0]
            else:
                gradient = _lsh_gradient(z, factor, total, inverse, upstream, *ctx.arguments)
        return gradient, None, None, None, None


def _lsh_gradient(
    z: Tensor,
    factor: Tensor,
    total: Tensor,
    inverse: Tensor,
    upstream: Tensor,
    lambda1: float,
    lambda2: float,
    gamma: float,
    reduction: Reduction,
) -> Tensor:
    n, k = z.shape[-2:]
    weight1, weight2 = pair_weights(k, lambda1, lambda2, reduction)
    y = torch.mul(z, gamma).tanh_()
    directions = y * inverse.unsqueeze(-2)
    scale = (gamma * upstream).unsqueeze(-1) * inverse  # with a once on each side, as its square may overflow
    if n < k or weight2 == 0:
        by_direction = 4 * weight1 * total.unsqueeze(-1).unsqueeze(-1) * directions.sum(-1, keepdim=True)
        if weight2:
            by_direction = by_direction + 4 * weight2 * (factor @ directions)
        along = (by_direction * directions).sum(-2, keepdim=True)
        by_sign = (by_direction - directions * along) * scale.unsqueeze(-2)
    else:
        by_sign = directions @ (factor * (2 * scale).unsqueeze(-2))
    return torch.ops.aten.tanh_backward(by_sign, y)


def _inverse_lengths(squares: Tensor) -> Tensor:
    """Return 1 / sqrt of the filters' sums of squares, 0 where those are too small to hold a direction."""
    finfo = torch.finfo(squares.dtype)
    counts = squares > finfo.tiny / finfo.eps**2
    return torch.where(counts, torch.where(counts, squares, 1.0).rsqrt(), 0.0)


class _Gram(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Tensor, without_diagonal: bool, total: int) -> tuple[Tensor, Tensor]:
        if total > kernel.shape[-2]:
            excess, slope = _gram_of_some(kernel, without_diagonal, total)
            return (excess * slope).sum(), slope
        excess = _gram_excess(kernel, without_diagonal)
        if without_diagonal:
            return excess.square().sum(), excess
        # |W^T W - I|^2 and |W W^T - I|^2 differ by the k - d eigenvalues 0 of the larger one
        k, d = kernel.shape[-2:]
        groups = kernel.shape[:-2].numel()
        return excess.square().sum() + groups * max(k - d, 0), excess

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        kernel, ctx.without_diagonal, ctx.total = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(kernel, output[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
        kernel, slope = ctx.saved_tensors
        if upstream is None:
            return None, None, None
        of_some = ctx.total > kernel.shape[-2]
        with torch.autocast(kernel.device.type, enabled=False):
            if torch.is_grad_enabled():  # a second derivative is wanted
                slope = (
                    _gram_of_some(kernel, ctx.without_diagonal, ctx.total)[1]
                    if of_some
                    else _gram_excess(kernel, ctx.without_diagonal)
                )
            factor = slope * (4 * upstream)
            on_filters = of_some or ctx.without_diagonal or kernel.shape[-2] <= kernel.shape[-1]
            return (factor @ kernel if on_filters else kernel @ factor), None, None


def _gram_excess(kernel: Tensor, without_diagonal: bool) -> Tensor:
    """Return the smaller of W^T W - I and W W^T - I, or W^T W without its diagonal, which is always k x k."""
    k, d = kernel.shape[-2:]
    if without_diagonal:
        return off_diagonal(kernel @ kernel.mT)
    excess = kernel @ kernel.mT if k <= d else kernel.mT @ kernel
    excess.diagonal(dim1=-2, dim2=-1).sub_(1)
    return excess


def _gram_of_some(kernel: Tensor, without_diagonal: bool, total: int) -> tuple[Tensor, Tensor]:
    """Return W^T W - I of some of the filters, and the same weighted so that products of the two estimate all."""
    m = kernel.shape[-2]
    excess = kernel @ kernel.mT
    excess.diagonal(dim1=-2, dim2=-1).sub_(1)
    slope = excess * (total * (total - 1) / max(m * (m - 1), 1))
    own = 0.0 if without_diagonal else total / m
    slope.diagonal(dim1=-2, dim2=-1).copy_(own * excess.diagonal(dim1=-2, dim2=-1))
    return excess, slope
