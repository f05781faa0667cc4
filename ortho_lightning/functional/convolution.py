"""Inner products of a convolution's filters at all shifts; the Gram matrix has only those at shift 0.

Source: Wang et al. 2020, "Orthogonal convolutional neural networks" (arXiv 1911.12207).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._precision import full_precision

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""Convolutions by their number of spatial dimensions."""


@full_precision
def self_convolution(
    kernel: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int] | None = None
) -> Tensor:
    r"""Return the inner products of shifted filters minus the identity, :math:`\mathrm{conv}(K, K) - I_0`.

    Entry ``[i, j, s]`` is the inner product of filter i with filter j moved by a multiple of the stride, for all
    shifts up to the padding; at the shift 0 stands the Gram matrix minus the identity. It is zero for an orthogonal
    convolution (a map whose matrix has orthonormal rows) if the padding is the largest multiple of the stride below
    the kernel's width. The padding of a usual layer is half of that, so that larger shifts are left out; the authors'
    code takes the layer's. A padding that is no multiple of the stride is made the next smaller one, since no output
    would be at the shift 0; the authors' code then expects the identity at a shift of one pixel.

    Args:
        kernel: ``(..., k, c, *size)`` of one to three spatial dimensions; leading dimensions are groups.
        stride: of the convolution, one number for each spatial dimension.
        padding: likewise.
        dilation: likewise; None: 1.

    Returns:
        ``(..., k, k, *shifts)``, float32 or better.

    Raises:
        ArgumentTypeError: for a tensor that is not floating point.
        ConfigurationError: for numbers of dimensions that do not fit.

    Example:
        >>> self_convolution(torch.eye(2).reshape(2, 2, 1), [1], [0]).squeeze(-1)
        tensor([[0., 0.],
                [0., 0.]])
    """
    spatial = len(stride)
    dilation = [1] * spatial if dilation is None else dilation
    if spatial not in CONVOLVE or kernel.dim() < spatial + 2 or not len(padding) == len(dilation) == spatial:
        raise ConfigurationError(
            f"kernel of shape {tuple(kernel.shape)}, stride={tuple(stride)}, padding={tuple(padding)}, "
            f"dilation={tuple(dilation)}: give one number for each of one to three spatial dimensions"
        )
    padding = [pad // step * step for pad, step in zip(padding, stride, strict=True)]
    leading, (k, c), size = kernel.shape[: -spatial - 2], kernel.shape[-spatial - 2 : -spatial], kernel.shape[-spatial:]
    groups = leading.numel()
    dilated = _dilated(kernel.reshape(groups * k, c, *size), dilation)
    # filters of all groups side by side as the channels of k "images", each group convolved with its own
    images = dilated.unflatten(0, (groups, k)).transpose(0, 1).flatten(1, 2)
    products = CONVOLVE[spatial](images, dilated, stride=list(stride), padding=padding, groups=groups)
    products = products.unflatten(1, (groups, k)).transpose(0, 1)
    target = torch.zeros_like(products[0])
    at_zero: tuple[Any, ...] = (..., *(pad // step for pad, step in zip(padding, stride, strict=True)))
    target[at_zero] = torch.eye(k, device=kernel.device, dtype=products.dtype)
    return (products - target).reshape(*leading, *products.shape[1:])


def _dilated(kernel: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return the kernel with zeros between its elements, which a dilated convolution applies."""
    if all(step == 1 for step in dilation):
        return kernel
    size = [(width - 1) * step + 1 for width, step in zip(kernel.shape[2:], dilation, strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:2], *size)
    apart: tuple[Any, ...] = (..., *(slice(None, None, step) for step in dilation))
    spread[apart] = kernel
    return spread
