"""Filters of a layer as ``(groups, k, d)``, and the weight that they are made from.

A layer is a :class:`~ortho_lightning.layers.Part`, or a module with a single set of filters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers import weights
from ortho_lightning.layers.kernels import Columns, Kernel, Rows
from ortho_lightning.layers.parts import Part, part_of
from ortho_lightning.layers.weights import whole

__all__ = [
    "Layer",
    "effective_weight",
    "filter_counts",
    "has_filters",
    "layer_filters",
    "remake_weights",
    "trains",
    "weight_of_run",
    "weight_parameters",
    "whole",
]

Layer: TypeAlias = nn.Module | Part
RunWeights: TypeAlias = tuple[Tensor, ...]


def has_filters(layer: Layer) -> bool:
    """Return whether the layer is one of filters; false for outputs that are penalized as they are."""
    return not isinstance(layer, Part) or layer.kernel is not None


def filter_counts(layer: Layer) -> tuple[int, int]:
    """Return ``(groups, k)``, of the weight that the layer has, not of attributes that pruning leaves behind.

    Where reading the weight would compute it, or a lazy layer has none yet, the attributes tell.
    """
    part = part_of(layer)
    kernel = _kernel(part)
    shapes = tuple(weights.shape_of(*part.holder(name)) for name in kernel.weights)
    known = tuple(tuple(shape) for shape in shapes if shape is not None)
    if len(known) == len(shapes):
        groups, k, _ = _checked(part, _answer(part, known))
        return groups, k
    if kernel.counts is not None:
        return kernel.counts
    with torch.no_grad():
        groups, k, _ = layer_filters(part).shape
    return groups, k


def effective_weight(layer: Layer) -> Tensor:
    """Return the weight that the layer computes with: parametrized, quantization-aware or dequantized, with its graph.

    Reading it changes nothing: a spectral norm makes no power iteration. Of reparametrizations by forward hooks (the
    older ``weight_norm``, pruning) it is the value of the last forward. Of filters that are a part of a weight, or made
    from several, it is ``(groups * k, d)``.
    """
    part = part_of(layer)
    kernel = _kernel(part)
    if isinstance(kernel.filters, Rows | Columns) and kernel.filters.is_whole:
        return _read(part)[0]
    return layer_filters(part).flatten(0, 1)


def layer_filters(layer: Layer, weight: Tensor | RunWeights | None = None) -> Tensor:
    """Return the layer's filters, ``(groups, k, d)``, with their graph; conv: d = in / groups * kernel elements.

    Args:
        layer: a part, or a module with a single set of filters.
        weight: the weight of a certain run, from ``weight_of_run``; None: the effective weight now.

    Raises:
        ConfigurationError: for a layer without filters, or a registered kernel that gives another shape.
    """
    part = part_of(layer)
    kernel = _kernel(part)
    given = (weight,) if isinstance(weight, Tensor) else weight
    filters = kernel.filters(*(given or _read(part)))
    _checked(part, _shape(filters))
    return filters


def weight_of_run(layer: Layer) -> RunWeights | None:
    """Return the weights of a layer of which a reparametrization by forward hooks made one for this run.

    Called in a forward hook: the next run replaces it, perhaps by one without a graph. None for every other layer,
    whose weights can wait.
    """
    part = part_of(layer)
    if part.kernel is None:
        return None
    made = [weights.of_run(*part.holder(name)) for name in part.kernel.weights]
    return _read(part) if any(weight is not None for weight in made) else None


def remake_weights(layer: Layer) -> None:
    """Make the weights of the older reparametrizations anew from their parameters, as the layer's next run will.

    They keep the graph of the last run otherwise, which is used up, and the values from before the optimizer's step.
    """
    part = part_of(layer)
    if part.kernel is not None:
        for name in part.kernel.weights:
            weights.remake(*part.holder(name))


def weight_parameters(layer: Layer) -> list[Tensor]:
    """Return the parameters that the layer's weight is made from; itself where nothing reparametrizes it.

    Of outputs that are penalized as they are: the parameters of the module.
    """
    part = part_of(layer)
    if part.kernel is None:
        return list(part.module.parameters())
    found = [weights.parameters_of(*part.holder(name)) for name in part.kernel.weights]
    return [parameter for own in found for parameter in own]


def trains(layer: Layer) -> bool:
    """Return whether the layer's effective weight requires a gradient now, without computing it."""
    part = part_of(layer)
    if part.kernel is None:
        return any(parameter.requires_grad for parameter in part.module.parameters())
    return any(weights.requires_grad(*part.holder(name)) for name in part.kernel.weights)


def _read(part: Part) -> RunWeights:
    return tuple(weights.effective(*part.holder(name)) for name in _kernel(part).weights)


def _kernel(part: Part) -> Kernel:
    if part.kernel is None:
        raise ConfigurationError(f"{part.kind}: only its outputs were selected, which belong to no filters known here")
    return part.kernel


def _answer(part: Part, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...] | str:
    """Return the shape of what the kernel gives for weights of these shapes."""
    try:
        return _shape_for(_kernel(part).filters, shapes)
    except Exception as error:
        told = str(error) if isinstance(error, ConfigurationError) else f"Kernel.filters raised {error!r}"
        raise ConfigurationError(f"{part.kind}: {told} (weights of {', '.join(map(str, shapes))})") from error


@functools.lru_cache(maxsize=4096)  # asked in every run of every layer
def _shape_for(filters: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...] | str:
    return _shape(filters(*(torch.empty(shape, device="meta") for shape in shapes)))


def _shape(filters: Any) -> tuple[int, ...] | str:
    return tuple(filters.shape) if isinstance(filters, Tensor) else type(filters).__name__


def _checked(part: Part, shape: tuple[int, ...] | str) -> tuple[int, ...]:
    if isinstance(shape, str) or len(shape) != 3:
        raise ConfigurationError(f"{part.kind}: Kernel.filters gave {shape}: filters are a tensor (groups, k, d)")
    return shape
