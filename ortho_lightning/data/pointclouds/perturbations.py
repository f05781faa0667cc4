"""Perturbations of test clouds, to measure robustness: noise, missing points, other poses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ortho_lightning.data.pointclouds import points

Perturbation = Callable[[Tensor, Tensor], Tensor]  # clouds (B, P, 3) and their indices (B,) to clouds (B, P, 3)

# Lengths are in radii of the cloud. "missing" cuts one side off, "thinned" removes points all over the surface.
_CLOUDS: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]] = {
    "noise 0.02": (points.jittered, (0.02, None)),
    "noise 0.05": (points.jittered, (0.05, None)),
    "missing 0.3": (points.cut, (0.3,)),
    "missing 0.5": (points.cut, (0.5,)),
    "thinned 0.75": (points.dropped, (0.75,)),
    "tilted 30": (points.tilted, (30.0,)),
    "rotated": (points.rotated, ()),
}


def cloud_perturbations(seed: int) -> dict[str, Perturbation]:
    """Return the perturbations of clouds in the unit ball; functions of seed and index, so that runs are paired."""
    return {
        name: partial(_perturbed, function, values, (seed, number))
        for number, (name, (function, values)) in enumerate(_CLOUDS.items())
    }


def _perturbed(
    function: Callable[..., Tensor], values: tuple[Any, ...], key: tuple[int, int], x: Tensor, index: Tensor
) -> Tensor:
    return function(x, index, *values, *key)
