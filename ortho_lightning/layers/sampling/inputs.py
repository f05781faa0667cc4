"""Sampling of a layer's inputs, to compute its outputs again without a gradient to the layers below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ortho_lightning.functional.convolution import CONVOLVE
from ortho_lightning.layers.filters import Layer, RunWeights, layer_filters
from ortho_lightning.layers.parts import part_of
from ortho_lightning.layers.sampling.positions import Draws, draws_of, flat, outputs_place, places_of, positions_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class SampledInputs:
    """Inputs without graph, and how a convolution goes over them to give what :func:`sample_outputs` would take."""

    x: Tensor
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


Taken: TypeAlias = Tensor | SampledInputs
"""Sampled outputs of a run as a hook takes them, or the inputs to compute them from."""


def can_compute_again(layer: Layer) -> bool:
    """Return whether the outputs of a layer are known to be a linear map, or a convolution, of its first input."""
    return outputs_place(layer).linear or isinstance(part_of(layer).module, _CONVOLUTIONS)


def sample_inputs(layer: Layer, x: Tensor, output: Tensor, max_samples: int | None, seed: int | Draws) -> SampledInputs:
    """Return what :func:`outputs_from_inputs` needs to compute the outputs of :func:`sample_outputs` again.

    Linear: the samples ``(n, d)``. Convolutions: the patches under the filters, ``(n, channels, *kernel)``, or with
    ``max_samples=None`` the padded images, which are smaller than all their patches.
    """
    x = x.detach()
    positions = positions_of(layer, output)
    places = places_of(positions.shape, max_samples)
    draws = draws_of(seed)
    if outputs_place(layer).linear:
        return SampledInputs(places.rows(flat(x, -1), draws))
    convolution = cast(nn.Conv2d, part_of(layer).module)
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
    image, position = places.indices(draws, x.device)
    number = image * places.size + position  # an output without a batch counts its first axis as one
    image, *place = torch.unravel_index(number, (x.shape[0], *x.shape[2 : 2 + dimensions]))
    patches: tuple[Any, ...] = (image, slice(None), *place)
    return SampledInputs(x[patches], (1,) * dimensions, (1,) * dimensions)


def outputs_from_inputs(layer: Layer, inputs: SampledInputs, weight: RunWeights | None = None) -> Tensor:
    """Return the layer's outputs, without bias, for the inputs of :func:`sample_inputs`: ``(n, groups * k)``.

    ``weight`` is as in :func:`~ortho_lightning.layers.layer_filters`.
    """
    filters = layer_filters(layer, weight)
    dtype = torch.promote_types(filters.dtype, torch.float32)
    filters, x = filters.to(dtype).flatten(0, 1), inputs.x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        if outputs_place(layer).linear:
            return F.linear(x, filters)
        convolution = cast(nn.Conv2d, part_of(layer).module)
        kernel = filters.unflatten(1, (-1, *convolution.kernel_size))
        convolve = CONVOLVE[len(inputs.stride)]
        answer = convolve(x, kernel, None, inputs.stride, 0, inputs.dilation, convolution.groups)
    return answer.movedim(1, -1).flatten(0, -2)
