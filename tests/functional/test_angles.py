import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF


def random_kernel(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


shapes = st.tuples(st.integers(2, 7), st.integers(1, 9))
seeds = st.integers(0, 2**20)


def test_golden_cosines_and_angles(golden):
    values = golden("kernel.npz")
    torch.testing.assert_close(OF.pairwise_cosines(values["kernel"]), values["cosines"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(OF.pairwise_angles(values["kernel"]), values["angles_deg"], rtol=1e-10, atol=1e-12)
    grouped = OF.pairwise_angles(values["grouped_kernel"])
    torch.testing.assert_close(grouped, values["grouped_angles_deg"], rtol=1e-10, atol=1e-12)


def test_hand_computed_angles():
    kernel = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    torch.testing.assert_close(OF.pairwise_angles(kernel), torch.tensor([45.0, 90.0, 135.0]))
    torch.testing.assert_close(OF.pairwise_angles(kernel, degrees=False)[1], torch.tensor(math.pi / 2))


def test_parallel_and_opposite_filters_are_exactly_0_and_180_degrees():
    kernel = torch.tensor([[3.0, 4.0], [3.0, 4.0], [-3.0, -4.0]], dtype=torch.float64)
    assert OF.pairwise_angles(kernel).tolist() == pytest.approx([0.0, 180.0, 180.0], abs=1e-5)


@given(shapes, seeds)
def test_cosines_do_not_depend_on_length_and_follow_order_and_sign(shape, seed):
    k, _ = shape
    kernel = random_kernel(*shape, seed=seed)
    scale = torch.logspace(-3, 3, k, dtype=torch.float64)[:, None]
    cosines = OF.pairwise_cosines(kernel)
    torch.testing.assert_close(OF.pairwise_cosines(kernel * scale), cosines)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(OF.pairwise_cosines(kernel[order]), cosines[order][:, order])
    signs = torch.where(torch.arange(k) % 2 == 0, 1.0, -1.0).double()
    torch.testing.assert_close(OF.pairwise_cosines(kernel * signs[:, None]), cosines * signs[:, None] * signs)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_lengths_neither_overflow_nor_vanish(scale):
    kernel = random_kernel(4, 6, dtype=torch.float32)
    expected = OF.pairwise_cosines(kernel)
    torch.testing.assert_close(OF.pairwise_cosines(kernel * scale), expected, rtol=1e-5, atol=1e-6)


def test_zero_filter_has_right_angles_and_gets_no_gradient():
    kernel = random_kernel(3, 4)
    kernel[1] = 0
    kernel.requires_grad_()
    angles = OF.pairwise_angles(kernel)
    assert angles[0] == 90.0
    assert angles[2] == 90.0
    (angles - 45).square().sum().backward()
    assert torch.equal(kernel.grad[1], torch.zeros(4, dtype=torch.float64))
    assert kernel.grad.isfinite().all()


def test_identical_filters_have_finite_gradients():
    kernel = random_kernel(1, 5).repeat(3, 1).requires_grad_()
    OF.pairwise_angles(kernel).sum().backward()
    assert kernel.grad.isfinite().all()


def test_gradients():
    kernel = random_kernel(2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(OF.pairwise_cosines, kernel)
    assert torch.autograd.gradcheck(OF.pairwise_angles, kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_reduced_precision_is_computed_in_float32(dtype):
    kernel = random_kernel(5, 40).to(dtype)
    cosines = OF.pairwise_cosines(kernel)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, OF.pairwise_cosines(kernel.double()).float(), rtol=1e-5, atol=1e-6)


def test_autocast_does_not_lower_the_precision():
    kernel = random_kernel(5, 40, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = OF.pairwise_cosines(kernel)
    assert torch.equal(inside, OF.pairwise_cosines(kernel))


def test_errors_name_what_is_wrong():
    with pytest.raises(TypeError, match=r"torch\.int64.*\.float\(\)"):
        OF.pairwise_cosines(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        OF.pairwise_angles(torch.ones(3))


@pytest.mark.parametrize(
    ("d", "expected"), [(1, 90.0), (2, 180 / math.sqrt(12)), (3, math.degrees(math.sqrt(math.pi**2 / 4 - 2)))]
)
def test_null_std_known_values(d, expected):
    assert OF.null_std(d) == pytest.approx(expected, rel=1e-5)


def test_null_std_is_that_of_random_directions():
    angles = OF.pairwise_angles(random_kernel(1000, 20))
    assert angles.std().item() == pytest.approx(OF.null_std(20), rel=0.01)
    with pytest.raises(ValueError, match="d=0"):
        OF.null_std(0)


def test_welch_floor_is_reached_by_the_simplex():
    # k = d + 1 corners of a regular simplex have the smallest possible coherence
    corners = torch.eye(4, dtype=torch.float64) - 0.25
    cosines = OF.pairwise_cosines(corners)
    off = cosines[~torch.eye(4, dtype=torch.bool)]
    assert off.square().mean().sqrt().item() == pytest.approx(OF.welch_floor(4, 3))
    assert OF.welch_floor(3, 4) == 0.0


@given(st.integers(1, 3), st.integers(2, 40), st.integers(2, 6), seeds)
def test_statistics_equal_those_of_all_angles(groups, k, d, seed):
    kernel = random_kernel(groups, k, d, seed=seed)
    angles = OF.pairwise_angles(kernel).flatten()
    found = OF.angle_statistics(kernel)
    assert found.pairs == angles.numel()
    assert found.mean == pytest.approx(angles.mean().item())
    assert found.std == pytest.approx(angles.std(correction=0).item(), abs=1e-6)
    assert found.min == pytest.approx(angles.min().item())
    assert found.max == pytest.approx(angles.max().item())
    assert found.rms_cos == pytest.approx(torch.cos(angles.deg2rad()).square().mean().sqrt().item())
    assert found.total == pytest.approx(angles.sum().item())
    assert found.total_squares == pytest.approx(angles.square().sum().item())
    assert found.counts.sum() == angles.numel()
    assert (found.counts - torch.histc(angles, 90, 0, 180)).abs().max() <= 1


@pytest.mark.parametrize("elements", [5, 100, 3000])
def test_statistics_in_blocks_equal_those_in_one(monkeypatch, elements):
    kernel = random_kernel(7, 37, 5)
    whole = OF.angle_statistics(kernel)
    monkeypatch.setattr("ortho_lightning.functional._pairs._BLOCK_ELEMENTS", elements)
    blocks = OF.angle_statistics(kernel)
    assert torch.equal(blocks.counts, whole.counts)
    assert blocks.mean == pytest.approx(whole.mean, rel=1e-12)
    assert blocks.std == pytest.approx(whole.std, rel=1e-12)
    assert (blocks.min, blocks.max) == pytest.approx((whole.min, whole.max), rel=1e-12)


def test_statistics_without_pairs():
    found = OF.angle_statistics(torch.ones(1, 3))
    assert found.pairs == 0
    assert math.isnan(found.mean)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_filters_that_are_not_finite_do_not_look_orthogonal(wrong):
    kernel = torch.eye(4, 6)
    kernel[1, 2] = wrong
    cosines = OF.pairwise_cosines(kernel)
    assert cosines[1].isnan().all()
    assert torch.equal(cosines[[0, 2, 3]][:, [0, 2, 3]], torch.eye(3))
    statistics = OF.angle_statistics(kernel)
    for value in (statistics.mean, statistics.std, statistics.min, statistics.max, statistics.max_abs_cos):
        assert math.isnan(value)
    assert statistics.counts.sum() == 0
    assert math.isnan(OF.response_statistics(kernel * float("nan")).std)
    assert OF.lsh_similarity(kernel.T * wrong).isnan().any()
    assert OF.lsh_similarity_exact(kernel).isnan().any()
    assert OF.pairwise_angles(kernel).isnan().sum() == 3
