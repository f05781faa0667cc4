"""Positions of the sampled outputs: spread evenly over the batch and the map, and moved by a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import Layer
from ortho_lightning.layers.kernels import Outputs
from ortho_lightning.layers.parts import part_of
from ortho_lightning.random import mix


@dataclass(frozen=True)
class Places:
    """Positions of samples: in each image at regular distances along the flattened map, in each at others.

    The same places in every image would be the simpler slice and a much worse sample: most places would not be seen in
    a step. So the image that is j-th of its block begins at phase (j + turn) mod period of the distance: a diagonal of
    a view, in two parts where it starts again.
    """

    images: slice
    blocks: int
    teeth: slice
    """The part of the map that divides into distances."""
    distance: int
    phases: slice
    """The places within a distance at which an image may begin."""
    turn: int

    def parts(self, positions: Tensor) -> list[Tensor]:
        """Return views ``(blocks, images, teeth, channels)`` that together hold all the samples."""
        cells = positions[self.images, self.teeth].unflatten(1, (-1, self.distance))[:, :, self.phases]
        cells = cells.unflatten(0, (self.blocks, -1))
        period = cells.shape[3]
        both = (cells.diagonal(offset, 1, 3).movedim(-1, 1) for offset in (self.turn, self.turn - period))
        return [part for part in both if part.shape[1] > 0]

    def rows(self, positions: Tensor) -> Tensor:
        """Return a copy of the samples, ``(n, channels)``."""
        if positions.numel() == 0:
            return positions.flatten(0, 1).clone()
        return torch.cat(self.parts(positions), 1).flatten(0, -2)

    def add(self, positions: Tensor, rows: Tensor) -> None:
        """Add samples where they were taken from, in place."""
        if positions.numel() == 0:
            return
        parts = self.parts(positions)
        blocks, _, teeth, channels = parts[0].shape
        by_image = rows.view(blocks, -1, teeth, channels)
        for part, own in zip(parts, by_image.split([part.shape[1] for part in parts], 1), strict=True):
            part += own


def places_of(shape: Sequence[int], max_samples: int | None, seed: int) -> Places:
    """Return up to ``max_samples`` places in ``(batch, map, channels)``; how many depends on the shape alone."""
    batch, size, _ = shape
    if batch * size == 0:
        return Places(slice(None), 1, slice(None), 1, slice(None), 0)
    rows = batch * size if max_samples is None else min(max_samples, batch * size)
    teeth = size // (math.ceil(size / rows) if batch == 1 else min(size, batch * size // rows))
    distance = size // teeth
    images = min(batch, rows // teeth)
    step = _without_common_factor(max(1, distance // images), size)
    period = distance // step
    blocks = math.ceil(images / period)
    if images // period * period >= images // blocks * blocks:
        blocks = images // period
    images = blocks * min(images // blocks, period)

    def drawn(number: int, below: int) -> int:
        return mix(seed, number) % below

    every = batch // images
    first = drawn(0, batch - (images - 1) * every)
    begin = drawn(1, size - teeth * distance + 1)
    phase = drawn(2, distance - (period - 1) * step)
    return Places(
        images=slice(first, first + (images - 1) * every + 1, every),
        blocks=blocks,
        teeth=slice(begin, begin + teeth * distance),
        distance=distance,
        phases=slice(phase, phase + (period - 1) * step + 1, step),
        turn=drawn(3, period),
    )


def _without_common_factor(step: int, size: int) -> int:
    """Return the largest number up to ``step`` that meets every column: coprime to the map's size."""
    return next(value for value in range(step, 0, -1) if math.gcd(value, size) == 1)


def channel_axis(layer: Layer) -> int:
    """Return the axis of the filters in the layer's output; negative: from the end."""
    return outputs_place(layer).axis


def outputs_place(layer: Layer) -> Outputs:
    """Return where the layer's outputs are.

    Raises:
        ConfigurationError: for a layer whose module's outputs are not those of its filters.
    """
    part = part_of(layer)
    if part.outputs is None:
        raise ConfigurationError(f"{part.kind} has no outputs to sample: {part.why_no_outputs}")
    return part.outputs


def positions_of(layer: Layer, output: Tensor) -> Tensor:
    """Return the output as ``(batch, map, channels)``."""
    return flat(output, channel_axis(layer))


def flat(output: Tensor, axis: int) -> Tensor:
    """Return the output as ``(batch, map, channels)``, with one position in a batch or a map that is not there."""
    output = output.unsqueeze(0) if output.dim() == 1 else output
    output = output.movedim(axis, -1)
    return output.unsqueeze(1) if output.dim() == 2 else output.flatten(1, -2)


def is_flat(output: Tensor, axis: int) -> bool:
    """Return whether :func:`flat` gives a view, as it does for every usual layout, and not a copy."""
    return flat(output, axis).untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
