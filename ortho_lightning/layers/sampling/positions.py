"""Positions of the sampled outputs: spread evenly over the batch and the map, and moved by a seed."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import Layer
from ortho_lightning.layers.kernels import Outputs
from ortho_lightning.layers.parts import part_of
from ortho_lightning.random import mix

_PARTS = 2**20  # of an image's share of the samples, to draw where in it the first sample begins
_GOLDEN = (math.sqrt(5) - 1) / 2
Draws = Sequence[int] | Tensor


@dataclass(frozen=True)
class Places:
    """Places of ``count`` samples among ``images`` maps of ``size`` positions.

    The images get equal numbers of samples, up to one. Along all samples the position moves on by a stride near the
    golden section of the map, without a common factor with its size: samples of one image lie far apart, those of
    different images in different places, and together they cover the map evenly. Two draws move everything, so that
    each position of each image is as likely as any other.
    """

    count: int
    images: int
    size: int
    stride: int

    @property
    def is_all(self) -> bool:
        """Whether every position is taken, in order."""
        return self.count == self.images * self.size

    def indices(self, draws: Draws, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the image and the position in its map of each sample, ``(count,)`` both.

        Args:
            draws: two integers of :func:`draws_of`, or a tensor of them, which compiled code reads anew in each step.
            device: of the result.
        """
        numbers = torch.arange(self.count, device=device)
        if self.is_all:
            return numbers // self.size, numbers % self.size
        image = (numbers * _PARTS + draws[0]) * self.images // (self.count * _PARTS)
        return image, (numbers * self.stride + draws[1]) % self.size

    def rows(self, positions: Tensor, draws: Draws) -> Tensor:
        """Return a copy of the samples, ``(n, channels)``, of ``(images, size, channels)``."""
        if self.is_all:
            return positions.flatten(0, 1).clone()
        return positions[self.indices(draws, positions.device)]

    def add(self, positions: Tensor, rows: Tensor, draws: Draws) -> None:
        """Add samples where they were taken from, in place."""
        if self.is_all:
            positions += rows.view(positions.shape)
            return
        where = self.indices(draws, positions.device)
        positions[where] = positions[where] + rows


def places_of(shape: Sequence[int], max_samples: int | None) -> Places:
    """Return up to ``max_samples`` places in ``(batch, map, channels)``; they depend on the shape alone."""
    images, size, _ = shape
    count = images * size if max_samples is None else min(max_samples, images * size)
    # the size is a constant of compiled code: torch 2.6 raises where it is symbolic
    return Places(count, images, size, _stride(operator.index(size)))


def draws_of(seed: int | Draws) -> Draws:
    """Return what moves the places: two numbers from a seed, or draws as they are."""
    if not isinstance(seed, int):
        return seed
    return mix(seed, 0) % _PARTS, mix(seed, 1) % 2**31


@torch.compiler.assume_constant_result
def _stride(size: int) -> int:
    """Return the number nearest to the golden section of a size that has no common factor with it."""
    golden = max(1, round(size * _GOLDEN))
    return next(
        value
        for distance in range(size + 1)
        for value in (golden + distance, golden - distance)
        if value > 0 and math.gcd(value, size) == 1
    )


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
