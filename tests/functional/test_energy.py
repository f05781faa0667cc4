import math

import pytest
import torch

from ortho_lightning import functional as OF


def random_points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def energy_by_hand(points, s):
    """The mean over pairs, from the distances themselves."""
    points = [point / point.norm() for point in points]
    found = []
    for i, a in enumerate(points):
        for b in points[i + 1 :]:
            distance = (a - b).norm().item()
            found.append(-2 * math.log(distance) if s == 0 else distance**-s)
    return sum(found) / len(found)


@pytest.mark.parametrize("s", [0, 1, 2])
def test_energy_is_the_mean_over_pairs_of_points(s):
    points = random_points(6, 4)
    found = OF.hyperspherical_energy(OF.pairwise_cosines(points), s)
    assert found.item() == pytest.approx(energy_by_hand(points, s), rel=1e-10)
    both = torch.stack([points, random_points(6, 4, seed=1)])
    mean = (energy_by_hand(both[0], s) + energy_by_hand(both[1], s)) / 2
    assert OF.hyperspherical_energy(OF.pairwise_cosines(both), s).item() == pytest.approx(mean, rel=1e-10)


@pytest.mark.parametrize("s", [0, 1, 2])
def test_the_half_space_energy_is_that_of_the_points_and_their_opposites(s):
    points = random_points(5, 3)
    found = OF.hyperspherical_energy(OF.pairwise_cosines(points), s, half_space=True)
    assert found.item() == pytest.approx(energy_by_hand(torch.cat([points, -points]), s), rel=1e-10)


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("s", [0, 1, 2])
def test_gradients_of_the_energy(s, half_space):
    points = random_points(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: OF.hyperspherical_energy(OF.pairwise_cosines(x), s, half_space), points)


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("s", [0, 1, 2])
def test_equal_opposite_and_zero_points_have_a_finite_energy(s, half_space):
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]], requires_grad=True)
    energy = OF.hyperspherical_energy(OF.pairwise_cosines(points), s, half_space)
    energy.backward()
    assert energy.isfinite()
    assert points.grad.isfinite().all()


def test_one_point_has_no_energy():
    assert OF.hyperspherical_energy(torch.ones(1, 1)).item() == 0
    assert OF.hyperspherical_energy(torch.ones(3, 1, 1), half_space=True).item() == 0


def test_koleo_is_the_mean_logarithm_of_the_nearest_distance():
    samples = random_points(9, 4)
    unit = samples / samples.norm(dim=1, keepdim=True)
    distances = torch.cdist(unit, unit) + 10 * torch.eye(9, dtype=torch.float64)
    expected = -distances.amin(1).log().mean()
    torch.testing.assert_close(OF.koleo(samples), expected, rtol=0, atol=1e-4)  # the guard adds 1e-6 to the squares


def test_gradient_of_koleo():
    assert torch.autograd.gradcheck(OF.koleo, random_points(2, 5, 3).requires_grad_())


def test_koleo_of_equal_and_zero_samples_is_finite():
    samples = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1e-9], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value = OF.koleo(samples)
    value.backward()
    assert value.isfinite()
    assert samples.grad.isfinite().all()
    assert samples.grad.abs().max() <= 1000
    assert OF.koleo(torch.ones(1, 3)).item() == 0


def test_exponents_are_checked():
    with pytest.raises(ValueError, match="s=3"):
        OF.hyperspherical_energy(torch.eye(2), s=3)
    with pytest.raises(ValueError, match="half_space='yes'"):
        OF.hyperspherical_energy(torch.eye(2), half_space="yes")
