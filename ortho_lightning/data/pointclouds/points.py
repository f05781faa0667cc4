"""Operations on batches of point clouds ``(B, P, 3)``, z up.

Random numbers come from :mod:`ortho_lightning.random`: they are a function of the key and of each cloud's index, and
depend neither on the batch nor on the device. Common arguments:

* x: ``(B, P, 3)`` clouds, floating point.
* index: ``(B,)`` integers, the number of each cloud in the data set.
* key: integers that select the stream, such as seed, epoch and the number of the operation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ortho_lightning import random


def to_unit_ball(x: Tensor) -> Tensor:
    """Centre on the mean of the points, and scale so that the farthest point has distance 1."""
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=-1).amax(1)[:, None, None]


def y_up_to_z_up(x: Tensor) -> Tensor:
    """Turn by a right angle about the x axis: (x, y, z) becomes (x, -z, y)."""
    return torch.stack([x[..., 0], -x[..., 2], x[..., 1]], -1)


# ----------------------------------------------------------------------------------------------------------- rotations


def rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Return rotations (M, 3, 3) about unit axes (M, 3) by angles (M,) in radians (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    sin, cos = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    return torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * (cross @ cross)


def turned(x: Tensor, index: Tensor, *key: int) -> Tensor:
    """Turn each cloud by a random angle about the up axis."""
    turn = 2 * math.pi * random.uniform(index, 1, *key).squeeze(1)
    up = torch.tensor([0.0, 0.0, 1.0], device=x.device).expand(len(x), 3)
    return x @ rotation(up, turn).mT


def tilted(x: Tensor, index: Tensor, degrees: float, *key: int) -> Tensor:
    """Tilt the up axis of each cloud by ``degrees`` in a random direction."""
    direction = 2 * math.pi * random.uniform(index, 1, *key).squeeze(1)
    axis = torch.stack([torch.cos(direction), torch.sin(direction), torch.zeros_like(direction)], -1)
    return x @ rotation(axis, torch.full_like(direction, math.radians(degrees))).mT


def rotated(x: Tensor, index: Tensor, *key: int) -> Tensor:
    """Rotate each cloud at random: uniform on SO(3), from normal quaternions."""
    real, *imaginary = random.normal(index, 4, *key).unbind(-1)
    vector = torch.stack(imaginary, -1)
    length = vector.norm(dim=-1)
    axis = vector / length.clamp(min=torch.finfo(length.dtype).tiny)[:, None]
    return x @ rotation(axis, 2 * torch.atan2(length, real)).mT


# ---------------------------------------------------------------------------------------------------- noise and scales


def jittered(x: Tensor, index: Tensor, sigma: float, clip: float | None, *key: int) -> Tensor:
    """Add normal noise of standard deviation ``sigma`` to every coordinate, clipped at ``clip``; None: not clipped."""
    noise = sigma * random.normal(index, x[0].numel(), *key).view_as(x)
    return x + (noise if clip is None else noise.clamp(-clip, clip))


def scaled(x: Tensor, index: Tensor, low: float, high: float, anisotropic: bool, *key: int) -> Tensor:
    """Multiply each cloud by a factor uniform in [low, high); ``anisotropic``: another factor for each axis."""
    factors = low + (high - low) * random.uniform(index, 3 if anisotropic else 1, *key)
    return x * factors[:, None, :]


# ------------------------------------------------------------------------------------------------------ missing points


def subset(x: Tensor, index: Tensor, points: int, *key: int) -> Tensor:
    """Choose ``points`` different points of each cloud at random: ``(B, points, 3)``."""
    order = random.uniform(index, x.shape[1], *key).argsort(dim=1, stable=True)
    return _taken(x, order[:, :points])


def dropped(x: Tensor, index: Tensor, share: float | Tensor, *key: int) -> Tensor:
    """Replace random points by repetitions of the others, so that the shape stays (a maximum ignores repetitions).

    Args:
        x: clouds; see above.
        index: see above.
        share: of the points, in [0, 1]; one for all clouds, or ``(B,)``. At least one point of a cloud is kept.
        *key: see above.
    """
    return _first(x, random.uniform(index, x.shape[1], *key), share)


def cut(x: Tensor, index: Tensor, share: float | Tensor, *key: int) -> Tensor:
    """Replace the points beyond a plane of random direction, as in :func:`dropped`."""
    side = random.normal(index, 3, *key)
    # a sum of products: a matrix product may round differently in batches of another size
    return _first(x, (x * side[:, None, :]).sum(-1), share)


def _first(x: Tensor, keys: Tensor, share: float | Tensor) -> Tensor:
    """The points with the smallest keys ``(B, P)``, all but ``share``, repeated up to the original number."""
    points = x.shape[1]
    removed = torch.as_tensor(share, device=x.device).expand(len(x))[:, None] * points
    kept = (points - removed.round().long()).clamp(min=1)
    place = torch.arange(points, device=x.device) % kept
    return _taken(x, keys.argsort(dim=1, stable=True).gather(1, place))


def _taken(x: Tensor, place: Tensor) -> Tensor:
    return x.gather(1, place[..., None].expand(-1, -1, 3))
