"""Cosines in closed form: values, derivatives of every kind, and numbers at the ends of the dtype."""

import pytest
import torch

from ortho_lightning import functional as OF


def kernel(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(filters):
    lengths = filters.square().sum(-1).sqrt()
    return filters @ filters.mT / lengths.unsqueeze(-1) / lengths.unsqueeze(-2)


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (2, 3, 7), (2, 2, 6, 2)])
def test_values_and_gradients_are_those_of_the_definition(shape):
    filters, weights = kernel(*shape), kernel(*shape[:-1], shape[-2], seed=1)
    found, expected = filters.clone().requires_grad_(), filters.clone().requires_grad_()
    cosines = OF.pairwise_cosines(found)
    torch.testing.assert_close(cosines, by_hand(expected), rtol=1e-12, atol=1e-12)
    (cosines * weights).sum().backward()
    (by_hand(expected) * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)


def test_derivatives_of_every_kind():
    filters = kernel(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(OF.pairwise_cosines, filters, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(OF.pairwise_cosines, filters)
    batch = kernel(3, 4, 5)

    def penalty(one):
        return OF.off_diagonal(OF.pairwise_cosines(one)).square().sum()

    found = torch.func.vmap(torch.func.grad(penalty))(batch)
    each = torch.stack([torch.func.grad(penalty)(one) for one in batch])
    torch.testing.assert_close(found, each)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e15, 1e30])
def test_lengths_do_not_matter_however_short_or_long(scale):
    filters = kernel(6, 9).float()
    filters[2] *= scale
    filters.requires_grad_()
    cosines = OF.pairwise_cosines(filters)
    exact = by_hand(filters.detach().double())
    torch.testing.assert_close(cosines.double(), exact, rtol=0, atol=1e-6)
    OF.off_diagonal(cosines).square().sum().backward()
    assert filters.grad.isfinite().all()
    along = (filters.grad * filters.detach()).sum(-1)  # a change of length changes nothing
    torch.testing.assert_close(along, torch.zeros(6), rtol=0, atol=1e-5)


def test_filters_of_zeros_have_no_direction_and_no_gradient():
    filters = kernel(2, 4, 5).float()
    filters[0, 1] = 0
    filters[1, 2] = 1e-38
    filters.requires_grad_()
    cosines = OF.pairwise_cosines(filters)
    assert cosines[0, 1].count_nonzero() == cosines[0, :, 1].count_nonzero() == 0
    assert cosines[1, 2].count_nonzero() == 0
    cosines.sum().backward()
    assert filters.grad[0, 1].count_nonzero() == filters.grad[1, 2].count_nonzero() == 0
    assert filters.grad.isfinite().all()
    assert OF.pairwise_cosines(torch.zeros(3, 0)).tolist() == torch.zeros(3, 3).tolist()


@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_is_left_to_the_network(autocast):
    filters = kernel(30, 40).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = OF.pairwise_cosines(filters.requires_grad_())
        found.sum().backward()
    assert found.dtype == torch.float32
    assert filters.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), by_hand(filters.detach().double()), rtol=0, atol=1e-6)
