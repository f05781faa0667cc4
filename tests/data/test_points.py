import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from ortho_lightning.data.pointclouds import points
from ortho_lightning.data.pointclouds.perturbations import cloud_perturbations

INDEX = torch.arange(40)
OPERATIONS = {
    "turned": lambda x, index, *key: points.turned(x, index, *key),
    "tilted": lambda x, index, *key: points.tilted(x, index, 20.0, *key),
    "rotated": lambda x, index, *key: points.rotated(x, index, *key),
    "jittered": lambda x, index, *key: points.jittered(x, index, 0.05, 0.1, *key),
    "scaled": lambda x, index, *key: points.scaled(x, index, 0.8, 1.25, True, *key),
    "subset": lambda x, index, *key: points.subset(x, index, 7, *key),
    "dropped": lambda x, index, *key: points.dropped(x, index, 0.5, *key),
    "cut": lambda x, index, *key: points.cut(x, index, 0.5, *key),
}


def clouds(count=40, size=30, seed=0):
    return points.to_unit_ball(torch.randn(count, size, 3, generator=torch.Generator().manual_seed(seed)))


def matrices(turn, count):
    """What a rotation does to the unit vectors, which are its columns."""
    return turn(torch.eye(3).expand(count, 3, 3), torch.arange(count), 5).mT


def rows(cloud):
    return {tuple(point) for point in cloud.tolist()}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_is_a_function_of_key_and_index_and_leaves_its_input_and_the_global_state(operation):
    x = clouds()
    before, kept = torch.get_rng_state(), x.clone()
    first = operation(x, INDEX, 3, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, kept)
    assert torch.equal(operation(x, INDEX, 3, 1), first)
    assert not torch.allclose(operation(x, INDEX, 3, 2), first)
    chosen = torch.tensor([31, 4, 17])  # another batch of other size and order
    torch.testing.assert_close(operation(x[chosen], chosen, 3, 1), first[chosen], rtol=0, atol=1e-6)
    same = operation(x[:1].expand(40, -1, -1), INDEX, 3, 1)  # the draw differs from cloud to cloud
    assert not torch.allclose(same[0], same[1])


@pytest.mark.parametrize("operation", [OPERATIONS[name] for name in ("turned", "tilted", "rotated")])
def test_rotations_are_orthonormal_and_no_reflections(operation):
    found = matrices(operation, 200)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(200, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(200))


def test_turns_keep_the_up_axis_and_are_uniform_in_angle():
    found = matrices(points.turned, 2000)
    torch.testing.assert_close(found[:, :, 2], torch.tensor([0.0, 0.0, 1.0]).expand(2000, 3))
    angles = torch.atan2(found[:, 1, 0], found[:, 0, 0])
    assert scipy.stats.kstest(angles, scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


def test_tilts_have_the_angle_asked_for_in_any_direction():
    up = matrices(OPERATIONS["tilted"], 2000)[:, :, 2]
    torch.testing.assert_close(up[:, 2], torch.full((2000,), math.cos(math.radians(20.0))))
    angles = torch.atan2(up[:, 1], up[:, 0])
    assert scipy.stats.kstest(angles, scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


def test_any_rotation_is_as_likely_as_any_other():
    found = matrices(points.rotated, 4000)
    for entry in found.flatten(1).unbind(1):  # each entry of a uniform rotation is uniform in [-1, 1] (Archimedes)
        assert scipy.stats.kstest(entry, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.001
    # the angle has the density (1 - cos t) / pi
    angles = torch.acos(((torch.einsum("bii->b", found) - 1) / 2).clamp(-1, 1))
    assert scipy.stats.kstest(angles, lambda t: (t - np.sin(t)) / math.pi).pvalue > 0.001


def test_noise_has_the_deviation_asked_for_and_is_cut_off():
    x = torch.zeros(200, 50, 3)
    index = torch.arange(200)
    free = points.jittered(x, index, 0.02, None, 1)
    assert scipy.stats.kstest(free.flatten(), scipy.stats.norm(0, 0.02).cdf).pvalue > 0.01
    held = points.jittered(x, index, 0.02, 0.03, 1)
    assert held.abs().max() == pytest.approx(0.03)
    inside = free.abs() < 0.03
    assert torch.equal(held[inside], free[inside])
    assert ((~inside).float().mean() - 2 * scipy.stats.norm.cdf(-1.5)).abs() < 0.01


@pytest.mark.parametrize("anisotropic", [False, True])
def test_scales_lie_in_their_range_and_are_one_or_three_a_cloud(anisotropic):
    x = torch.ones(2000, 2, 3)
    factors = points.scaled(x, torch.arange(2000), 0.8, 1.25, anisotropic, 4)
    assert torch.equal(factors[:, 0], factors[:, 1])
    assert (factors[:, 0, 0] != factors[:, 0, 1]).float().mean() == pytest.approx(1.0 if anisotropic else 0.0, abs=0.01)
    assert scipy.stats.kstest(factors[:, 0, 2], scipy.stats.uniform(0.8, 0.45).cdf).pvalue > 0.01


def test_a_subset_holds_different_points_of_its_cloud_all_equally_often():
    x = clouds(count=3000, size=10)
    found = points.subset(x, torch.arange(3000), 4, 6)
    assert found.shape == (3000, 4, 3)
    chosen = (found[:, :, None] == x[:, None]).all(-1)  # (B, 4, 10): which point of the cloud each is
    assert (chosen.sum((1, 2)) == 4).all()
    assert chosen.any(1).sum(1).eq(4).all()
    assert scipy.stats.chisquare(chosen.sum((0, 1))).pvalue > 0.01


@pytest.mark.parametrize("missing", [points.dropped, points.cut])
@pytest.mark.parametrize(("share", "left"), [(0.0, 30), (0.3, 21), (0.5, 15), (0.99, 1), (1.0, 1)])
def test_the_share_that_is_missing_is_exact_and_the_rest_stands_in_for_it(missing, share, left):
    x = clouds()
    found = missing(x, INDEX, share, 2)
    assert found.shape == x.shape
    for cloud, changed in zip(x, found, strict=True):
        assert rows(changed) <= rows(cloud)
        assert len(rows(changed)) == left


def test_each_cloud_may_miss_another_share():
    share = torch.linspace(0, 1, 40)
    found = points.dropped(clouds(size=100), INDEX, share, 2)
    left = [len(rows(cloud)) for cloud in found]
    assert left == [max(100 - round(100 * value), 1) for value in share.tolist()]


def test_a_cut_leaves_what_lies_on_one_side_of_a_plane():
    x = clouds(count=5, size=40)
    for cloud, changed in zip(x, points.cut(x, torch.arange(5), 0.5, 8), strict=True):
        kept = rows(changed)
        labels = np.array([tuple(point) in kept for point in cloud.tolist()])
        assert 0 < labels.sum() < 40
        # a plane between two sets of points exists if and only if this linear program has a solution
        signs = np.where(labels, 1.0, -1.0)[:, None]
        conditions = -signs * np.hstack([cloud.numpy().astype(float), np.ones((40, 1))])
        solved = scipy.optimize.linprog(
            np.zeros(4), A_ub=conditions, b_ub=-np.ones(40), bounds=[(None, None)] * 4, method="highs"
        )
        assert solved.status == 0
        assert any(tuple(point) not in kept for point in cloud.tolist())


def test_missing_points_leave_a_maximum_over_the_rest():
    x = clouds(count=6)
    found = points.dropped(x, torch.arange(6), 0.4, 1)
    for cloud in found:
        alone = torch.tensor(sorted(rows(cloud)))
        torch.testing.assert_close(cloud.amax(0), alone.amax(0))


def test_y_up_becomes_z_up_by_a_rotation():
    found = points.y_up_to_z_up(torch.eye(3)[None])[0]
    assert found[1].tolist() == [0.0, 0.0, 1.0]
    assert torch.linalg.det(found) == 1.0


def test_perturbations_have_names_and_are_the_same_in_every_batch_and_run():
    x = clouds(count=12, size=64)
    index = torch.arange(12)
    found = cloud_perturbations(3)
    assert list(found) == [
        "noise 0.02",
        "noise 0.05",
        "missing 0.3",
        "missing 0.5",
        "thinned 0.75",
        "tilted 30",
        "rotated",
    ]
    for name, change in found.items():
        changed = change(x, index)
        assert changed.shape == x.shape, name
        assert not torch.allclose(changed, x), name
        assert torch.equal(cloud_perturbations(3)[name](x, index), changed), name
        assert not torch.allclose(cloud_perturbations(4)[name](x, index), changed), name
        parts = torch.cat([change(x[:5], index[:5]), change(x[5:], index[5:])])
        torch.testing.assert_close(parts, changed, rtol=0, atol=1e-6)
    noise = found["noise 0.05"](x, index) - x
    assert noise.std().item() == pytest.approx(0.05, rel=0.05)
    assert [len(rows(found["missing 0.5"](x, index)[0])), len(rows(found["thinned 0.75"](x, index)[0]))] == [32, 16]
