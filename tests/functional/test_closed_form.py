"""The penalties in closed form equal the formulas: the same values, gradients and second derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional._lsh_formula import lsh_formula

SHAPES = [(40, 6), (6, 40), (7, 7), (3, 40, 6), (2, 3, 5, 9), (5, 1), (0, 4), (1, 4), (4, 2, 3)]
CASES = [{}, {"lambda2": 0.0}, {"lambda1": 0.0}, {"reduction": "sum", "lambda1": 0.3}, {"gamma": 0.7}]


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(function, x, upstream):
    x = x.clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x, upstream)[0]


def lsh_as_it_reads(outputs, lambda1=100.0, lambda2=1.0, gamma=10.0, reduction="mean"):
    return lsh_formula(outputs, lambda1, lambda2, gamma, reduction)


def gram_as_it_reads(kernel, off_diagonal=False):
    k, d = kernel.shape[-2:]
    if off_diagonal or k <= d:
        eye = torch.eye(k, dtype=kernel.dtype)
        gram = kernel @ kernel.mT
        return (gram * (1 - eye) if off_diagonal else gram - eye).square().sum()
    gram = kernel.mT @ kernel  # |W^T W - I|^2 = |W W^T|^2 - 2 |W|^2 + k
    return gram.square().sum() - (2 * kernel.square().sum(-1) - 1).sum()


def assert_equal(fast, plain, x, tolerance):
    upstream = numbers(*plain(x).shape, seed=9).to(x.dtype)
    expected_value, expected_gradient = value_and_gradient(plain, x, upstream)
    value, gradient = value_and_gradient(fast, x, upstream)
    torch.testing.assert_close(value, expected_value, rtol=tolerance, atol=tolerance)
    scale = expected_gradient.abs().max().item() if expected_gradient.numel() else 1.0
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance * max(scale, 1e-2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_lsh_equals_the_formula(shape, case, dtype, tolerance):
    z = 0.2 * numbers(*shape, dtype=dtype)
    assert_equal(lambda x: OF.lsh_penalties(x, **case), lambda x: lsh_as_it_reads(x, **case), z, tolerance)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7), (2, 4, 9), (2, 9, 4)])
@pytest.mark.parametrize("off_diagonal", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gram_equals_the_formula(shape, off_diagonal, dtype, tolerance):
    kernel = numbers(*shape, dtype=dtype)
    fast, plain = (lambda w, f=f: f(w, off_diagonal) for f in (OF.gram_penalty, gram_as_it_reads))
    assert_equal(fast, plain, kernel, tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_golden_values(golden, reduction):
    values, kernels = golden("lsh.npz"), golden("kernel.npz")
    one = torch.tensor(1.0, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda z: OF.lsh_penalties(z, reduction=reduction), values["outputs"], one)
    torch.testing.assert_close(value, values[f"penalty_{reduction}"], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, values[f"grad_{reduction}"], rtol=1e-10, atol=1e-14)
    for off_diagonal, key in ((False, "gram_fro"), (True, "gram_offdiag")):
        found = OF.gram_penalty(kernels["kernel"], off_diagonal)
        torch.testing.assert_close(found, kernels[key], rtol=1e-10, atol=0)


@pytest.mark.parametrize("shape", [(9, 4), (3, 6), (2, 7, 3)])
@pytest.mark.parametrize("case", CASES)
def test_lsh_can_be_differentiated_twice(shape, case):
    z = (0.2 * numbers(*shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: OF.lsh_penalties(x, **case), z)
    assert torch.autograd.gradgradcheck(lambda x: OF.lsh_penalties(x, **case), z)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
@pytest.mark.parametrize("off_diagonal", [True, False])
def test_gram_can_be_differentiated_twice(shape, off_diagonal):
    kernel = numbers(*shape).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda w: OF.gram_penalty(w, off_diagonal), kernel)


@pytest.mark.parametrize("penalty", [OF.lsh_penalty, OF.gram_penalty])
def test_vmap_gives_the_gradients_of_each_alone(penalty):
    batch = numbers(3, 9, 4)
    found = torch.func.vmap(torch.func.grad(penalty))(batch)
    each = torch.stack([torch.func.grad(penalty)(one) for one in batch])
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("n", [3, 30])
def test_zero_and_identical_filters_give_finite_gradients(n):
    z = numbers(n, 5)
    z[:, 1] = 0
    z[:, 2] = z[:, 3]
    z.requires_grad_()
    OF.lsh_penalties(z).backward()
    assert z.grad.isfinite().all()
    assert torch.equal(z.grad[:, 1], torch.zeros(n, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 12),
    k=st.integers(1, 12),
    scale=st.sampled_from([0.0, 1e-45, 1e-38, 1e-20, 1e-12, 1e-6, 1.0, 1e4, 1e30, 3e38]),
    lambda2=st.sampled_from([0.0, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 9),
)
def test_no_nan_from_finite_outputs(n, k, scale, lambda2, dtype, seed):
    z = (numbers(n, k, seed=seed).clamp(-1, 1) * scale).to(dtype).requires_grad_()
    penalty = OF.lsh_penalties(z, lambda2=lambda2)
    penalty.backward()
    assert penalty.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-14, 1e-12, 1e-6])
def test_small_and_equal_filters_do_not_overflow_under_loss_scaling(scale):
    z = (numbers(600, 1, dtype=torch.float32).expand(600, 512) * scale).requires_grad_()
    OF.lsh_penalties(z, reduction="sum").backward(torch.tensor(65536.0))
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("penalty", [OF.lsh_penalties, OF.gram_penalty])
def test_second_derivatives_are_float32_under_autocast_too(penalty):
    z = numbers(30, 5, dtype=torch.float32).requires_grad_()

    def gradient():
        return torch.autograd.grad(penalty(z), z, create_graph=True)[0]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient()
    torch.testing.assert_close(found, gradient(), rtol=1e-6, atol=1e-9)


def test_computes_in_float32_under_autocast_forward_and_backward():
    z = numbers(30, 5, dtype=torch.float32)
    expected = value_and_gradient(OF.lsh_penalties, z, torch.tensor(1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradient(OF.lsh_penalties, z, torch.tensor(1.0))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_only_what_is_asked_for_gets_a_gradient():
    z = numbers(2, 9, 4).requires_grad_()
    OF.lsh_penalties(z)[0].backward()
    assert torch.equal(z.grad[1], torch.zeros(9, 4, dtype=torch.float64))


@pytest.mark.parametrize("function", [OF.lsh_penalties, OF.gram_penalty])
def test_bad_input_is_rejected(function):
    with pytest.raises(TypeError, match=r"torch\.int64"):
        function(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="two or more dimensions"):
        function(torch.ones(3))


@pytest.mark.parametrize(("options", "message"), [({"gamma": math.nan}, "gamma=nan"), ({"lambda1": -1}, "lambda1=-1")])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        OF.lsh_penalties(torch.randn(4, 3), **options)
