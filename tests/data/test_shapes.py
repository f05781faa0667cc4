import pytest
import torch

from ortho_lightning.data.pointclouds.shapes import CLASSES, SHAPES, ShapesDataModule, make_clouds
from ortho_lightning.errors import ConfigurationError


def surface(name, points=4000):
    generator = torch.Generator().manual_seed(2)
    u = torch.rand(1, points, 4, generator=generator)
    s = torch.full((1, 1, 2), 0.5)
    return SHAPES[name](u, s)[0]


def test_at_least_ten_classes_in_equal_parts():
    _, labels = make_clouds(240, 16, 0, 0.0, 0.0, 0.0)
    assert len(CLASSES) >= 10
    assert torch.equal(torch.bincount(labels), torch.full((len(CLASSES),), 240 // len(CLASSES)))


def test_clouds_are_finite_centred_and_in_the_unit_ball():
    clouds, _ = make_clouds(120, 64, 0, 0.0, 0.3, 180.0)
    assert clouds.shape == (120, 64, 3)
    assert clouds.dtype == torch.float32
    assert clouds.isfinite().all()
    torch.testing.assert_close(clouds.mean(1), torch.zeros(120, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(clouds.norm(dim=-1).amax(1), torch.ones(120))


def test_points_lie_on_their_surfaces():
    torch.testing.assert_close(surface("sphere").norm(dim=1), torch.ones(4000))
    x, y, z = surface("torus").T
    torch.testing.assert_close((torch.hypot(x, y) - 0.75).square() + z.square(), torch.full((4000,), 0.25**2))
    x, y, z = surface("cylinder").T
    radius = torch.hypot(x, y)
    on_side, on_disc = (radius - 0.6).abs() < 1e-5, z.abs() == 1.0
    assert (on_side | on_disc).all()
    x, y, z = surface("cone").T
    radius = torch.hypot(x, y)
    assert (((radius - 0.7 * (1 - z) / 2).abs() < 1e-5) | (z == -1.0)).all()
    box = surface("box") / torch.tensor([0.75, 0.75, 0.7])
    torch.testing.assert_close(box.abs().amax(1), torch.ones(4000))
    x, y, z = surface("capsule").T
    beyond = (z.abs() - 0.65).clamp(min=0)
    torch.testing.assert_close(torch.hypot(torch.hypot(x, y), beyond), torch.full((4000,), 0.35), rtol=0, atol=1e-4)


def test_points_are_spread_by_area():
    # the sphere by Archimedes; a cylinder of radius r and height 2 has 2 pi r^2 of discs beside 4 pi r of side
    z = surface("sphere")[:, 2]
    assert abs(z.var() - 1 / 3) < 0.02
    z = surface("cylinder")[:, 2]
    assert abs((z.abs() == 1.0).float().mean() - 0.6 / (0.6 + 2)) < 0.03
    assert abs((surface("hemisphere")[:, 2] == 0).float().mean() - 1 / 3) < 0.03


def test_the_same_seed_gives_the_same_clouds_and_leaves_the_global_state():
    before = torch.get_rng_state()
    first, labels = make_clouds(24, 32, 5, 0.02, 0.3, 30.0)
    assert torch.equal(torch.get_rng_state(), before)
    again, same = make_clouds(24, 32, 5, 0.02, 0.3, 30.0)
    assert torch.equal(first, again)
    assert torch.equal(labels, same)
    assert not torch.equal(first, make_clouds(24, 32, 6, 0.02, 0.3, 30.0)[0])


def test_augmentation_turns_about_the_up_axis_and_depends_on_seed_epoch_and_index():
    data = ShapesDataModule(train_clouds=24, val_clouds=12, test_clouds=12, points=32, jitter=0.0)
    data.setup("fit")
    x, index = data.splits["train"][0][:6], torch.arange(6)
    turned = data.augmented(x, index, epoch=1)
    torch.testing.assert_close(turned[..., 2], x[..., 2])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(turned, x)
    torch.testing.assert_close(data.augmented(x[[4, 2]], index[[4, 2]], epoch=1), turned[[4, 2]])
    assert not torch.allclose(data.augmented(x, index, epoch=2), turned)
    assert data.prepare(x).shape == (6, 3, 32)


def test_splits_differ():
    data = ShapesDataModule(train_clouds=24, val_clouds=24, test_clouds=24, points=32)
    data.setup("fit")
    assert not torch.equal(data.splits["train"][0], data.splits["val"][0])


@pytest.mark.parametrize(
    "options",
    [{"points": 0}, {"train_clouds": 0}, {"missing": 1.0}, {"jitter": -0.1}, {"tilt": 200.0}, {"batch_size": 0}],
)
def test_bad_arguments_are_named(options):
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        ShapesDataModule(**options)
