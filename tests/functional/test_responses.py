import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import functional as OF
from ortho_lightning.errors import OrthoLightningError


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_similarity_of_hard_signs(golden):
    values = golden("lsh.npz")
    found = OF.response_similarity(values["outputs"])
    torch.testing.assert_close(found, values["similarity_sign"], rtol=1e-10, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**20))
def test_similarity_is_that_of_lsh_with_hard_signs(n, k, seed):
    outputs = numbers(2, n, k, seed=seed)
    outputs[0, 0] = 0.0
    torch.testing.assert_close(OF.response_similarity(outputs), OF.lsh_similarity(outputs, gamma=None))


def test_equal_and_opposite_signs_are_exactly_0_and_180_degrees():
    outputs = numbers(777, 1).float() * torch.tensor([[1.0, 2.0, -3.0]])
    assert OF.response_angles(outputs).tolist() == [0.0, 180.0, 180.0]
    found = OF.response_statistics(outputs)
    assert (found.min, found.max, found.max_abs_similarity) == (0.0, 180.0, 1.0)
    assert found.sampling_error == 0.0


def test_sign_of_zero_is_minus_one():
    assert OF.response_angles(torch.tensor([[0.0, -1.0], [0.0, -1.0]])).tolist() == [0.0]


def test_isotropic_inputs_agree_with_the_filter_angles_within_the_sampling_error():
    n, kernel = 40_000, numbers(12, 5, seed=1)
    exact = OF.pairwise_angles(kernel)
    found = OF.response_angles(numbers(n, 5, seed=2) @ kernel.T)
    deviations = (found - exact) / (exact * (180 - exact) / n).sqrt()
    assert deviations.abs().max() < 4
    assert deviations.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.3)


def test_one_sided_inputs_double_the_angle_of_boundaries_that_they_cross_and_hide_the_others():
    # inputs of all directions of the positive quadrant, and filters whose boundaries lie at 45, 63.43, 90 and 0 degrees
    directions = (torch.arange(9000, dtype=torch.float64) + 0.5) * (math.pi / 2 / 9000)
    inputs = torch.stack([directions.cos(), directions.sin()], dim=1)
    kernel = torch.tensor([[1.0, -1.0], [2.0, -1.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    between = math.degrees(math.atan(2)) - 45
    filter_angles = [between, 45.0, 135.0, math.degrees(math.atan(0.5)), 90 + math.degrees(math.atan(0.5)), 90.0]
    assert OF.pairwise_angles(kernel).tolist() == pytest.approx(filter_angles)
    rest = 2 * (90 - 45 - between)  # from the boundary of the second filter to the end of the quadrant
    response_angles = [2 * between, 90.0, 90.0, rest, rest, 0.0]
    assert OF.response_angles(inputs @ kernel.T).tolist() == pytest.approx(response_angles, abs=0.05)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(2, 40), st.integers(0, 2**20))
def test_statistics_equal_those_of_all_angles(groups, n, k, seed):
    outputs = numbers(groups, n, k, seed=seed)
    angles = OF.response_angles(outputs).flatten()
    found = OF.response_statistics(outputs)
    assert (found.n, found.pairs) == (n, angles.numel())
    assert found.mean == pytest.approx(angles.mean().item())
    assert found.std == pytest.approx(angles.std(correction=0).item(), abs=1e-5)
    assert (found.min, found.max) == pytest.approx((angles.min().item(), angles.max().item()))
    similarities = 1 - angles / 90
    assert found.rms_similarity == pytest.approx(similarities.square().mean().sqrt().item())
    assert found.max_abs_similarity == pytest.approx(similarities.abs().max().item())
    assert found.total == pytest.approx(angles.sum().item())
    assert found.total_squares == pytest.approx(angles.square().sum().item())
    assert found.counts.sum() == angles.numel()


def test_the_histogram_has_the_bins_of_the_filter_angles():
    outputs = numbers(1001, 30)  # an odd number of samples: few angles lie on the edge of a bin
    found = OF.response_statistics(outputs)
    expected = torch.histc(OF.response_angles(outputs), 90, 0, 180)
    assert len(found.counts) == len(OF.angle_statistics(outputs.mT).counts) == 90
    assert (found.counts - expected).abs().max() <= 1


@pytest.mark.parametrize("elements", [5, 100, 3000])
def test_statistics_in_blocks_equal_those_in_one(monkeypatch, elements):
    outputs = numbers(7, 25, 37)
    whole = OF.response_statistics(outputs)
    monkeypatch.setattr("ortho_lightning.functional._pairs._BLOCK_ELEMENTS", elements)
    blocks = OF.response_statistics(outputs)
    assert torch.equal(blocks.counts, whole.counts)
    assert (blocks.mean, blocks.std) == pytest.approx((whole.mean, whole.std), rel=1e-12)
    assert (blocks.min, blocks.max) == (whole.min, whole.max)


@pytest.mark.parametrize("n", [20, 400])
def test_the_sampling_error_is_that_of_repeated_estimates(n):
    kernel = numbers(6, 4, seed=3)
    repeats = [numbers(n, 4, seed=seed) @ kernel.T for seed in range(400)]
    measured = torch.stack([OF.response_angles(outputs) for outputs in repeats]).var(0).mean().sqrt().item()
    stated = [OF.response_statistics(outputs).sampling_error ** 2 for outputs in repeats]
    assert math.sqrt(sum(stated) / len(stated)) == pytest.approx(measured, rel=0.05)


def test_independent_signs_have_a_standard_deviation_of_90_over_the_root_of_n():
    found = OF.response_statistics(numbers(100, 300))
    assert found.std == pytest.approx(90 / math.sqrt(100), rel=0.02)
    assert found.sampling_error == pytest.approx(90 / math.sqrt(100), rel=0.02)


@pytest.mark.parametrize("shape", [(5, 1), (0, 4), (2, 0, 4)])
def test_statistics_without_pairs_or_samples_are_nan(shape):
    found = OF.response_statistics(torch.ones(shape))
    assert found.pairs == 0
    assert math.isnan(found.mean)
    assert math.isnan(found.min)
    assert found.counts.sum() == 0


def test_half_precision_counts_exactly():
    outputs = numbers(5000, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(OF.response_angles(outputs.bfloat16()), OF.response_angles(outputs.float()))


def test_integers_are_rejected():
    with pytest.raises(OrthoLightningError, match=r"response_statistics.*torch\.int64"):
        OF.response_statistics(torch.ones(3, 3, dtype=torch.int64))
