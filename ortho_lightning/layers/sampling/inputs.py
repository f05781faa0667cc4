"""Sampling of a layer's inputs, to compute its outputs again without a gradient to the layers below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ortho_lightning.layers.filters import effective_weight
from ortho_lightning.layers.sampling.positions import flat, places_of, positions_of


@dataclass(frozen=True)
class SampledInputs:
    """Inputs without graph, and how a convolution goes over them to give what :func:`sample_outputs` would take."""

    x: Tensor
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


def sample_inputs(module: nn.Module, x: Tensor, output: Tensor, max_samples: int | None, seed: int) -> SampledInputs:
    """Return what :func:`outputs_from_inputs` needs to compute the outputs of :func:`sample_outputs` again.

    Linear: the samples ``(n, d)``. Convolutions: the patches under the filters, ``(n, channels, *kernel)``, or with
    ``max_samples=None`` the padded images, which are smaller than all their patches.
    """
    x = x.detach()
    positions = positions_of(module, output)
    places = places_of(positions.shape, max_samples, seed)
    if isinstance(module, nn.Linear):
        return SampledInputs(places.rows(flat(x, -1)))
    convolution = cast(nn.Conv2d, module)
    dimensions = len(convolution.kernel_size)
    x = x.unsqueeze(0) if x.dim() == dimensions + 1 else x
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    x = F.pad(x, convolution._reversed_padding_repeated_twice, mode=mode)
    if max_samples is None:
        return SampledInputs(x.clone(), convolution.stride, convolution.dilation)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    numbers = torch.arange(positions.shape[0] * positions.shape[1], device=x.device).view(*positions.shape[:2], 1)
    image, *place = torch.unravel_index(places.rows(numbers).squeeze(-1), (x.shape[0], *x.shape[2 : 2 + dimensions]))
    patches: tuple[Any, ...] = (image, slice(None), *place)
    return SampledInputs(x[patches], (1,) * dimensions, (1,) * dimensions)


def outputs_from_inputs(module: nn.Module, inputs: SampledInputs, weight: Tensor | None = None) -> Tensor:
    """Return the layer's outputs, without bias, for the inputs of :func:`sample_inputs`: ``(n, channels)``.

    ``weight`` is as in :func:`filters`.
    """
    weight = effective_weight(module) if weight is None else weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight, x = weight.to(dtype), inputs.x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(module, nn.Linear):
            return F.linear(x, weight)
        convolution = cast(nn.Conv2d, module)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(inputs.stride)]
        answer = convolve(x, weight, None, inputs.stride, 0, inputs.dilation, convolution.groups)
    return answer.movedim(1, -1).flatten(0, -2)
