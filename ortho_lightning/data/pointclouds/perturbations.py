"""What is done to test clouds to see how much a network depends on clean ones: noise, missing points, other poses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ortho_lightning.data.pointclouds import points

Perturbation = Callable[[Tensor, Tensor], Tensor]  # clouds (B, P, 3) and their indices (B,) to clouds (B, P, 3)

# Lengths are in radii of the cloud. "missing" is a cut on one side, "thinned" leaves out points all over the surface.
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
    """The same list for every set of clouds in the unit ball; a function of seed and index, and so paired over runs."""
    return {
        name: partial(_perturbed, function, values, (seed, number))
        for number, (name, (function, values)) in enumerate(_CLOUDS.items())
    }


def _perturbed(
    function: Callable[..., Tensor], values: tuple[Any, ...], key: tuple[int, int], x: Tensor, index: Tensor
) -> Tensor:
    return function(x, index, *values, *key)
