import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ortho_lightning import functional as OF


def random_outputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def penalty_by_hand(outputs, lambda1=100.0, lambda2=1.0, gamma=10.0, reduction="mean"):
    """The formula with plain loops, one group."""
    n, k = outputs.shape
    y = [[math.tanh(gamma * outputs[a, j].item()) for j in range(k)] for a in range(n)]
    lengths = [math.sqrt(sum(y[a][j] ** 2 for a in range(n))) for j in range(k)]
    total = squares = 0.0
    for i in range(k):
        for j in range(k):
            if i != j and lengths[i] > 0 and lengths[j] > 0:
                similarity = sum(y[a][i] * y[a][j] for a in range(n)) / (lengths[i] * lengths[j])
                total += similarity
                squares += similarity**2
    pairs = k * (k - 1) if reduction == "mean" else 1
    return lambda1 * (total / pairs) ** 2 + lambda2 * squares / pairs


def test_golden_similarities(golden):
    values = golden("lsh.npz")
    for gamma, key in ((10.0, "similarity"), (None, "similarity_sign")):
        found = OF.lsh_similarity(values["outputs"], gamma)
        torch.testing.assert_close(found, values[key], rtol=1e-10, atol=1e-12)
    grouped = OF.lsh_similarity(values["grouped_outputs"])
    torch.testing.assert_close(grouped, values["grouped_similarity"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("penalty_mean", {}),
        ("penalty_sum", {"reduction": "sum"}),
        ("penalty_mean_l1_0", {"lambda1": 0.0}),
        ("penalty_mean_gamma1", {"gamma": 1.0}),
    ],
)
def test_golden_penalties(golden, key, options):
    values = golden("lsh.npz")
    torch.testing.assert_close(OF.lsh_penalty(values["outputs"], **options), values[key], rtol=1e-10, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_golden_gradients_and_groups(golden, reduction):
    values = golden("lsh.npz")
    outputs = values["outputs"].clone().requires_grad_()
    OF.lsh_penalty(outputs, reduction=reduction).backward()
    torch.testing.assert_close(outputs.grad, values[f"grad_{reduction}"], rtol=1e-10, atol=1e-14)
    grouped = OF.lsh_penalty(values["grouped_outputs"], reduction=reduction)
    torch.testing.assert_close(grouped, values[f"grouped_penalty_{reduction}"], rtol=1e-10, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.sampled_from(["mean", "sum"]), st.integers(0, 2**20))
def test_penalty_equals_the_formula_written_as_loops(n, k, reduction, seed):
    outputs = random_outputs(n, k, seed=seed)
    expected = penalty_by_hand(outputs, reduction=reduction) if k > 1 else 0.0
    assert OF.lsh_penalty(outputs, reduction=reduction).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**20))
def test_penalty_does_not_depend_on_the_order_of_filters_or_samples(n, k, seed):
    outputs = random_outputs(n, k, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = outputs[torch.randperm(n, generator=generator)][:, torch.randperm(k, generator=generator)]
    torch.testing.assert_close(OF.lsh_penalty(shuffled), OF.lsh_penalty(outputs))


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**20))
def test_squares_do_not_depend_on_the_signs_of_filters(n, k, seed):
    outputs = random_outputs(n, k, seed=seed)
    signs = torch.where(random_outputs(k, seed=seed + 1) > 0, 1.0, -1.0)
    options = {"lambda1": 0.0, "lambda2": 1.0}
    torch.testing.assert_close(OF.lsh_penalty(outputs * signs, **options), OF.lsh_penalty(outputs, **options))


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**20))
def test_hard_sign_does_not_depend_on_scale(n, k, seed):
    outputs = random_outputs(n, k, seed=seed)
    scale = torch.logspace(-2, 2, k, dtype=torch.float64)
    assert torch.equal(OF.lsh_similarity(outputs * scale, gamma=None), OF.lsh_similarity(outputs, gamma=None))


@pytest.mark.parametrize("k", [2, 5])
def test_reductions_agree_term_by_term(k):
    outputs = random_outputs(30, k)
    pairs = k * (k - 1)
    for lambdas, divisor in (((1.0, 0.0), pairs**2), ((0.0, 1.0), pairs)):
        total = OF.lsh_penalty(outputs, *lambdas, reduction="sum")
        torch.testing.assert_close(OF.lsh_penalty(outputs, *lambdas), total / divisor)


@pytest.mark.parametrize("shape", [(4, 40, 3), (2, 3, 40)])
def test_groups_are_averaged_or_added(shape):
    outputs = random_outputs(*shape)
    each = torch.stack([OF.lsh_penalty(group) for group in outputs])
    torch.testing.assert_close(OF.lsh_penalty(outputs), each.mean())
    each = torch.stack([OF.lsh_penalty(group, reduction="sum") for group in outputs])
    torch.testing.assert_close(OF.lsh_penalty(outputs, reduction="sum"), each.sum())


def test_penalty_is_zero_for_filters_with_orthogonal_sign_patterns():
    hadamard = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64)
    assert OF.lsh_penalty(hadamard).item() == pytest.approx(0.0, abs=1e-20)
    assert OF.lsh_penalty(hadamard, gamma=None).item() == pytest.approx(0.0, abs=1e-20)


def test_hard_sign_estimates_the_angles_on_isotropic_inputs():
    kernel = random_outputs(5, 7, seed=1)
    x = random_outputs(200_000, 7, seed=2)
    estimate = OF.lsh_similarity(x @ kernel.T, gamma=None)
    theta = torch.arccos(OF.pairwise_cosines(kernel).clamp(-1, 1))
    assert (estimate - (1 - 2 * theta / math.pi)).abs().max() < 0.01
    torch.testing.assert_close(OF.lsh_similarity_exact(kernel), 1 - 2 * theta / math.pi, rtol=0, atol=1e-7)


def test_sign_of_zero_is_minus_one():
    outputs = torch.tensor([[0.0, -1.0], [0.0, -1.0]])
    assert OF.lsh_similarity(outputs, gamma=None)[0, 1].item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(9, 4), (3, 6), (2, 7, 3), (2, 3, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients(shape, reduction):
    outputs = (0.2 * random_outputs(*shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: OF.lsh_penalty(z, reduction=reduction), outputs)
    assert torch.autograd.gradgradcheck(lambda z: OF.lsh_penalty(z, reduction=reduction), outputs)


def test_gradients_of_the_closed_form_and_of_rms():
    kernel = random_outputs(2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: OF.similarity_penalty(OF.lsh_similarity_exact(w)), kernel)
    assert torch.autograd.gradcheck(lambda z: OF.lsh_penalty(OF.rms_normalize(z), gamma=0.5), kernel)


@pytest.mark.parametrize("n", [3, 30])
def test_zero_and_identical_columns_give_finite_values_and_gradients(n):
    outputs = random_outputs(n, 5)
    outputs[:, 1] = 0
    outputs[:, 2] = outputs[:, 3]
    outputs.requires_grad_()
    OF.lsh_penalty(outputs).backward()
    assert outputs.grad.isfinite().all()
    assert torch.equal(outputs.grad[:, 1], torch.zeros(n, dtype=torch.float64))
    kernel = outputs.detach().T.clone().requires_grad_()
    OF.similarity_penalty(OF.lsh_similarity_exact(kernel)).backward()
    assert kernel.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_overflow_at_any_scale(scale, dtype):
    outputs = (random_outputs(20, 4) * scale).to(dtype).requires_grad_()
    penalty = OF.lsh_penalty(outputs)
    penalty.backward()
    assert penalty.dtype == torch.float32
    assert penalty.isfinite()
    assert not outputs.grad.isnan().any()


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-39, 1e-36])
def test_gradients_stay_finite_near_the_smallest_numbers(scale):
    outputs = (random_outputs(20, 4).float() * scale).requires_grad_()
    OF.lsh_penalty(outputs).backward()
    assert outputs.grad.isfinite().all()
    kernel = (random_outputs(4, 6).float() * scale).requires_grad_()
    OF.pairwise_angles(kernel).sum().backward()
    assert kernel.grad.isfinite().all()


def test_rms_normalization_makes_the_penalty_scale_free():
    outputs = random_outputs(50, 4)
    scale = torch.tensor([1e-3, 1.0, 7.0, 1e3], dtype=torch.float64)
    torch.testing.assert_close(
        OF.lsh_penalty(OF.rms_normalize(outputs * scale)), OF.lsh_penalty(OF.rms_normalize(outputs))
    )
    torch.testing.assert_close(OF.rms_normalize(outputs).square().mean(0), torch.ones(4, dtype=torch.float64))


def test_statistics_of_parts_add_up_to_the_similarity_of_the_whole():
    outputs = random_outputs(2, 40, 5)
    parts = sum(OF.lsh_statistics(part) for part in outputs.split([7, 33], dim=1))
    torch.testing.assert_close(OF.similarity_from_statistics(parts), OF.lsh_similarity(outputs))
    empty = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    OF.similarity_penalty(OF.similarity_from_statistics(empty)).backward()
    assert empty.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_floor_is_what_orthogonal_filters_read_on_average(reduction):
    n, k = 50, 6
    readings = [
        OF.lsh_penalty(random_outputs(n, k, seed=seed), gamma=None, reduction=reduction).item() for seed in range(2000)
    ]
    mean = sum(readings) / len(readings)
    assert mean == pytest.approx(OF.lsh_penalty_floor(n, k, reduction=reduction), rel=0.1)
    assert OF.lsh_penalty_floor(n, 1) == 0.0
    assert OF.lsh_penalty_floor(0, 4) == math.inf


def test_active_fraction_at_wide_outputs_is_small():
    # at a standard deviation of 3 some 8% of the outputs pass a gradient
    assert OF.lsh_active_fraction(3 * random_outputs(20_000, 2)).item() == pytest.approx(0.08, abs=0.005)
    assert OF.lsh_active_fraction(torch.zeros(3, 2)).item() == 1.0


def test_one_filter_or_no_sample_is_zero():
    assert OF.lsh_penalty(torch.randn(5, 1)).item() == 0.0
    assert OF.lsh_penalty(torch.empty(0, 4)).item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"gamma": -1.0}, r"gamma=-1\.0"),
        ({"gamma": math.nan}, "gamma=nan"),
        ({"lambda1": math.nan}, "lambda1=nan"),
        ({"lambda2": -1.0}, r"lambda2=-1\.0"),
        ({"reduction": "none"}, "reduction='none'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OF.lsh_penalty(torch.randn(4, 3), **options)


def test_integers_are_rejected():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        OF.lsh_penalty(torch.ones(3, 3, dtype=torch.int64))
