"""Operations on batches of point clouds ``(B, P, 3)``, z up.

What is random is drawn from :mod:`ortho_lightning.random`: a function of the key and of each cloud's index,
whatever batch a cloud comes in and whatever device it is on. Arguments that come back everywhere:

* x: ``(B, P, 3)`` clouds, floating point.
* index: ``(B,)`` integers, which cloud of the data set each is.
* key: integers that select the stream, such as seed, epoch and the number of the operation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ortho_lightning import random


def to_unit_ball(x: Tensor) -> Tensor:
    """Centred on the mean of the points, the farthest point at distance 1."""
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=-1).amax(1)[:, None, None]


def y_up_to_z_up(x: Tensor) -> Tensor:
    """Turned by a right angle about the x axis: (x, y, z) becomes (x, -z, y)."""
    return torch.stack([x[..., 0], -x[..., 2], x[..., 1]], -1)


# ----------------------------------------------------------------------------------------------------------- rotations


def rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations (M, 3, 3) about unit axes (M, 3) by angles (M,) in radians (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    sin, cos = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    return torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * (cross @ cross)


def turned(x: Tensor, index: Tensor, *key: int) -> Tensor:
    """Each cloud turned by any angle about the up axis."""
    turn = 2 * math.pi * random.uniform(index, 1, *key).squeeze(1)
    up = torch.tensor([0.0, 0.0, 1.0], device=x.device).expand(len(x), 3)
    return x @ rotation(up, turn).mT


def tilted(x: Tensor, index: Tensor, degrees: float, *key: int) -> Tensor:
    """Each cloud's up axis tilted by ``degrees`` in any direction."""
    direction = 2 * math.pi * random.uniform(index, 1, *key).squeeze(1)
    axis = torch.stack([torch.cos(direction), torch.sin(direction), torch.zeros_like(direction)], -1)
    return x @ rotation(axis, torch.full_like(direction, math.radians(degrees))).mT


def rotated(x: Tensor, index: Tensor, *key: int) -> Tensor:
    """Each cloud in any pose: rotations uniform on SO(3), those of normal quaternions."""
    real, *imaginary = random.normal(index, 4, *key).unbind(-1)
    vector = torch.stack(imaginary, -1)
    length = vector.norm(dim=-1)
    axis = vector / length.clamp(min=torch.finfo(length.dtype).tiny)[:, None]
    return x @ rotation(axis, 2 * torch.atan2(length, real)).mT


# ---------------------------------------------------------------------------------------------------- noise and scales


def jittered(x: Tensor, index: Tensor, sigma: float, clip: float | None, *key: int) -> Tensor:
    """Normal noise of standard deviation ``sigma`` on every coordinate, cut off at ``clip``; None: not cut off."""
    noise = sigma * random.normal(index, x[0].numel(), *key).view_as(x)
    return x + (noise if clip is None else noise.clamp(-clip, clip))


def scaled(x: Tensor, index: Tensor, low: float, high: float, anisotropic: bool, *key: int) -> Tensor:
    """Each cloud multiplied by a factor uniform in [low, high); ``anisotropic``: by one for each axis."""
    factors = low + (high - low) * random.uniform(index, 3 if anisotropic else 1, *key)
    return x * factors[:, None, :]


# ------------------------------------------------------------------------------------------------------ missing points


def subset(x: Tensor, index: Tensor, points: int, *key: int) -> Tensor:
    """``points`` different points of each cloud at random: ``(B, points, 3)``."""
    order = random.uniform(index, x.shape[1], *key).argsort(dim=1, stable=True)
    return _taken(x, order[:, :points])


def dropped(x: Tensor, index: Tensor, share: float | Tensor, *key: int) -> Tensor:
    """Points missing at random; others stand in for them, so that the shape stays (a maximum ignores repetitions).

    Args:
        share: of the points, in [0, 1]; one for all clouds, or ``(B,)``. One point of a cloud always stays.
    """
    return _first(x, random.uniform(index, x.shape[1], *key), share)


def cut(x: Tensor, index: Tensor, share: float | Tensor, *key: int) -> Tensor:
    """Points missing beyond a plane of random direction, as behind an edge; the shape stays as in :func:`dropped`."""
    side = random.normal(index, 3, *key)
    # a sum of products, as a matrix product may round otherwise in batches of another size
    return _first(x, (x * side[:, None, :]).sum(-1), share)


def _first(x: Tensor, keys: Tensor, share: float | Tensor) -> Tensor:
    """The points with the smallest keys ``(B, P)``, all but ``share``, repeated in turn up to the old number."""
    points = x.shape[1]
    removed = torch.as_tensor(share, device=x.device).expand(len(x))[:, None] * points
    kept = (points - removed.round().long()).clamp(min=1)
    place = torch.arange(points, device=x.device) % kept
    return _taken(x, keys.argsort(dim=1, stable=True).gather(1, place))


def _taken(x: Tensor, place: Tensor) -> Tensor:
    return x.gather(1, place[..., None].expand(-1, -1, 3))
