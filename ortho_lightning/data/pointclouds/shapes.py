"""A procedural data set of point clouds: solids and surfaces with random pose, size, noise and missing parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ortho_lightning.data.module import Split, TensorDataModule
from ortho_lightning.data.pointclouds.perturbations import Perturbation, cloud_perturbations
from ortho_lightning.data.pointclouds.points import jittered, rotation, to_unit_ball, turned
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.random import mix

Sampler = Callable[[Tensor, Tensor], Tensor]
# Each sampler maps ``u`` (M, P, 4), uniform in [0, 1), and ``s`` (M, 1, 2), shape parameters in [0, 1), to surface
# points (M, P, 3) of clouds about 2 across, z up.


def _sphere(u: Tensor, s: Tensor) -> Tensor:
    z = 2 * u[..., 0] - 1
    return _around(torch.sqrt(1 - z * z), u[..., 1], z)


def _hemisphere(u: Tensor, s: Tensor) -> Tensor:
    # the dome has twice the area of its base
    z = (3 * u[..., 0] / 2).clamp(max=1)
    dome = u[..., 0] < 2 / 3
    radius = torch.where(dome, torch.sqrt(1 - z * z), torch.sqrt(u[..., 2]))
    return _around(radius, u[..., 1], torch.where(dome, z, 0.0))


def _box(u: Tensor, s: Tensor) -> Tensor:
    half = torch.cat([0.5 + 0.5 * s, torch.full_like(s[..., :1], 0.7)], -1)
    areas = torch.stack([half[..., 1] * half[..., 2], half[..., 0] * half[..., 2], half[..., 0] * half[..., 1]], -1)
    axis = (u[..., 3:] * areas.sum(-1, keepdim=True) > areas.cumsum(-1)[..., :2]).sum(-1, keepdim=True)
    points = 2 * u[..., :3] - 1
    face = torch.arange(3) == axis
    return torch.where(face, points.sign(), points) * half


def _cylinder(u: Tensor, s: Tensor) -> Tensor:
    return _revolved(u, 0.4 + 0.4 * s[..., 0], 0.4 + 0.4 * s[..., 0])


def _cone(u: Tensor, s: Tensor) -> Tensor:
    return _revolved(u, 0.5 + 0.4 * s[..., 0], torch.zeros_like(s[..., 0]))


def _capsule(u: Tensor, s: Tensor) -> Tensor:
    radius = 0.25 + 0.2 * s[..., 0]
    half = 1 - radius
    # side 4 pi r h, caps 4 pi r^2: the height above the axis is uniform on both (Archimedes)
    height = (2 * u[..., 0] - 1) * (half + radius)
    beyond = (height.abs() - half).clamp(min=0)
    return _around(torch.sqrt((radius**2 - beyond**2).clamp(min=0)), u[..., 1], height)


def _torus(u: Tensor, s: Tensor) -> Tensor:
    tube = 0.15 + 0.2 * s[..., 0]
    angle = 2 * math.pi * u[..., 0]
    return _around(1 - tube + tube * torch.cos(angle), u[..., 1], tube * torch.sin(angle))


def _pyramid(u: Tensor, s: Tensor) -> Tensor:
    height = 0.9 + 0.6 * s[..., 0]
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.8
    face = (u[..., 3] * 5).long()  # four sides and the base
    side = face.clamp(max=3)
    a, b = corners[side], corners[(side + 1) % 4]
    along, up = u[..., 0], 1 - torch.sqrt(u[..., 1])
    edge = (a + (b - a) * along[..., None]) * (1 - up[..., None])
    base = 0.8 * (2 * u[..., :2] - 1)
    flat = (face == 4)[..., None]
    z = torch.where(face == 4, 0.0, up * height)
    return torch.cat([torch.where(flat, base, edge), (z - height / 3)[..., None]], -1)


def _tetrahedron(u: Tensor, s: Tensor) -> Tensor:
    corners = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]) * 0.8
    face = (u[..., 3] * 4).long()
    a, b, c = (corners[(face + i) % 4] for i in (1, 2, 3))
    root, v = torch.sqrt(u[..., :1]), u[..., 1:2]
    return a * (1 - root) + b * root * (1 - v) + c * root * v


def _helix(u: Tensor, s: Tensor) -> Tensor:
    turns = 1.5 + 1.5 * s[..., 0]
    t = 2 * u[..., 0] - 1
    angle = math.pi * turns * t
    thickness = 0.08 * (u[..., 1:4] - 0.5)
    return torch.stack([0.7 * torch.cos(angle), 0.7 * torch.sin(angle), t], -1) + thickness


def _mobius(u: Tensor, s: Tensor) -> Tensor:
    angle, across = 2 * math.pi * u[..., 0], (0.2 + 0.2 * s[..., 0]) * (2 * u[..., 1] - 1)
    radius = 0.75 + across * torch.cos(angle / 2)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), across * torch.sin(angle / 2)], -1)


def _saddle(u: Tensor, s: Tensor) -> Tensor:
    xy = 2 * u[..., :2] - 1
    return torch.cat([xy, ((0.4 + 0.4 * s[..., 0]) * (xy[..., 0] ** 2 - xy[..., 1] ** 2))[..., None]], -1)


def _around(radius: Tensor, turn: Tensor, z: Tensor) -> Tensor:
    angle = 2 * math.pi * turn
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), z.expand_as(angle)], -1)


def _revolved(u: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
    """A cylinder or cone of height 2 with its discs, by area."""
    slant = torch.sqrt(4 + (bottom - top) ** 2)
    areas = torch.stack([bottom**2 + 0 * u[..., 0], top**2 + 0 * u[..., 0], (bottom + top) * slant + 0 * u[..., 0]], -1)
    part = (u[..., 3:] * areas.sum(-1, keepdim=True) > areas.cumsum(-1)[..., :2]).sum(-1)
    # on the side, the distance from the (possibly virtual) tip grows like a square root
    wide = torch.sqrt(top**2 + u[..., 0] * (bottom**2 - top**2))
    height = torch.where(bottom > top, 1 - 2 * (wide - top) / (bottom - top).clamp(min=1e-6), 2 * u[..., 2] - 1)
    radius = torch.where(part == 2, wide, torch.sqrt(u[..., 0]) * torch.where(part == 0, bottom, top))
    z = torch.where(part == 2, height, torch.where(part == 0, -1.0, 1.0))
    return _around(radius, u[..., 1], z)


SHAPES: dict[str, Sampler] = {
    "sphere": _sphere,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "capsule": _capsule,
    "pyramid": _pyramid,
    "helix": _helix,
    "tetrahedron": _tetrahedron,
    "hemisphere": _hemisphere,
    "mobius": _mobius,
    "saddle": _saddle,
}
CLASSES = tuple(SHAPES)


def make_clouds(count: int, points: int, seed: int, jitter: float, missing: float, tilt: float) -> Split:
    """Make labelled clouds; the same arguments give the same clouds.

    Args:
        count: number of clouds; the sizes of the classes differ by one at most.
        points: points a cloud.
        seed: of all random numbers.
        jitter: standard deviation of the noise on each point, in radii of the cloud.
        missing: largest share of the surface that a cut may remove, in [0, 1).
        tilt: largest angle of the pose to the up axis, in degrees; 180 for any pose. Turns about it are always random.

    Returns:
        Clouds ``(count, points, 3)`` float32, centred, within the unit ball, and labels ``(count,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(count, generator=generator) % len(SHAPES)
    surface = max(points, round(points / (1 - missing)) + 1)
    u = torch.rand(count, surface, 4, generator=generator)
    s = torch.rand(count, 1, 2, generator=generator)
    clouds = torch.empty(count, surface, 3)
    for label, sampler in enumerate(SHAPES.values()):
        chosen = labels == label
        clouds[chosen] = sampler(u[chosen], s[chosen])
    clouds = clouds * (0.75 + 0.5 * torch.rand(count, 1, 3, generator=generator))
    clouds = clouds @ _poses(count, tilt, generator).mT
    clouds = _cut(clouds, points, missing, generator)
    clouds = to_unit_ball(clouds)
    return clouds + jitter * torch.randn(clouds.shape, generator=generator), labels


def _poses(count: int, tilt: float, generator: torch.Generator) -> Tensor:
    turn, direction, angle = torch.rand(3, count, generator=generator) * torch.tensor([[2.0], [2.0], [tilt / 180]])
    turn, direction, angle = math.pi * turn, math.pi * direction, math.pi * angle
    axis = torch.stack([torch.cos(direction), torch.sin(direction), torch.zeros(count)], -1)
    return rotation(axis, angle) @ rotation(torch.tensor([0.0, 0.0, 1.0]).expand(count, 3), turn)


def _cut(clouds: Tensor, points: int, missing: float, generator: torch.Generator) -> Tensor:
    """Remove a random share of each cloud on a random side, and keep ``points`` of the rest at random."""
    count, surface, _ = clouds.shape
    side = torch.nn.functional.normalize(torch.randn(count, 3, 1, generator=generator), dim=1)
    rank = (clouds @ side).squeeze(-1).argsort(1).argsort(1)
    share = missing * torch.rand(count, 1, generator=generator)
    removed = rank >= ((1 - share) * surface).ceil().clamp(min=points)
    keys = torch.rand(count, surface, generator=generator) + removed
    kept = keys.topk(points, dim=1, largest=False).indices
    return clouds.gather(1, kept[..., None].expand(-1, -1, 3))


class ShapesDataModule(TensorDataModule):
    """Twelve classes of procedural point clouds, made in seconds from a seed; turned and jittered in training.

    Args:
        train_clouds: size of the training split.
        val_clouds: size of the validation split.
        test_clouds: size of the test split.
        points: points a cloud.
        jitter: noise of the data, in radii of the cloud.
        missing: largest share of a cloud that is cut away, in [0, 1).
        tilt: largest angle of a pose to the up axis, in degrees; 180 for any pose.
        batch_size: clouds a batch and process.
        eval_batch_size: clouds a batch in validation and test.
        augment: whether training clouds are turned about the up axis and jittered, differently in each epoch.
        seed: of the order and the augmentation.
        data_seed: of the clouds.

    Raises:
        ConfigurationError: for counts below 1 or values outside their range.
    """

    num_classes = len(CLASSES)

    def __init__(
        self,
        train_clouds: int = 2048,
        val_clouds: int = 512,
        test_clouds: int = 1024,
        points: int = 128,
        jitter: float = 0.02,
        missing: float = 0.3,
        tilt: float = 30.0,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        augment: bool = True,
        seed: int = 0,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed, augment)
        self.counts = {"train": train_clouds, "val": val_clouds, "test": test_clouds}
        for split, count in self.counts.items():
            if count < 1:
                raise ConfigurationError(f"{split}_clouds={count}: must be 1 or more")
        if points < 1:
            raise ConfigurationError(f"points={points}: must be 1 or more")
        if jitter < 0 or not 0 <= missing < 1 or not 0 <= tilt <= 180:
            raise ConfigurationError(
                f"jitter={jitter}, missing={missing}, tilt={tilt}: jitter must be 0 or more, missing in [0, 1), "
                "tilt in [0, 180]"
            )
        self.points = points
        self.jitter = jitter
        self.missing = missing
        self.tilt = tilt
        self.data_seed = data_seed

    def setup(self, stage: str) -> None:
        """Make the clouds of every split."""
        if self.splits:
            return
        for number, (split, count) in enumerate(self.counts.items()):
            seed = mix(self.data_seed, number)
            self.splits[split] = make_clouds(count, self.points, seed, self.jitter, self.missing, self.tilt)

    def prepare(self, x: Tensor) -> Tensor:
        """Return the clouds with the coordinates as channels."""
        return x.mT.contiguous()

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Turn about the up axis, and jitter."""
        return jittered(turned(x, index, self.seed, epoch, 0), index, self.jitter, None, self.seed, epoch, 1)

    def perturbations(self) -> dict[str, Perturbation]:
        """Return the perturbations of point clouds."""
        return cloud_perturbations(self.data_seed)
