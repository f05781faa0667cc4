"""Penalties between sets of filters, against their sums written out, and their gradients."""

import pytest
import torch

from ortho_lightning import functional as OF
from ortho_lightning.errors import ArgumentTypeError, ConfigurationError


def kernel(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("norm", "size"), [("l1", abs), ("fro", lambda product: product**2)])
def test_the_cross_penalty_is_the_sum_over_both_sets(norm, size):
    filters, anchor = kernel(2, 3, 5), kernel(2, 4, 5)
    expected = sum(size((filters[g, i] @ anchor[g, j]).item()) for g in range(2) for i in range(3) for j in range(4))
    assert OF.cross_gram_penalty(filters, anchor, norm).item() == pytest.approx(expected)


def test_the_anchor_gets_no_gradient_and_orthogonal_sets_no_penalty():
    filters = torch.eye(4, dtype=torch.float64)[None, :2].requires_grad_()
    anchor = torch.eye(4, dtype=torch.float64)[None, 2:].requires_grad_()
    penalty = OF.cross_gram_penalty(filters, 3 * anchor, "fro")
    assert penalty.item() == 0
    penalty.backward()
    assert anchor.grad is None
    other = kernel(1, 3, 4)
    assert torch.autograd.gradcheck(lambda w: OF.cross_gram_penalty(w, other, "fro"), filters)


def test_half_precision_is_summed_in_float32_also_under_autocast():
    filters, anchor = kernel(1, 3, 64), kernel(1, 4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = OF.cross_gram_penalty(filters.half(), anchor.half())
    assert found.dtype == torch.float32
    expected = OF.cross_gram_penalty(filters.half().float(), anchor.half().float())
    torch.testing.assert_close(found, expected)


def test_group_similarity_is_the_mean_squared_cosine_between_groups():
    for shape in ((3, 2, 7), (3, 5, 4), (4, 1, 6)):
        filters = kernel(*shape)
        cosines = OF.pairwise_cosines(filters.flatten(0, 1))
        group = torch.arange(shape[0]).repeat_interleave(shape[1])
        expected = cosines[group[:, None] != group].square().mean()
        torch.testing.assert_close(OF.group_similarity(filters), expected)
    assert torch.autograd.gradcheck(OF.group_similarity, kernel(3, 2, 4).requires_grad_())


def test_the_similarity_of_one_filter_a_group_is_that_of_the_routers_penalty():
    experts = kernel(6, 9)
    gram = OF.pairwise_cosines(experts)
    of_ernie = (gram - torch.eye(6)).square().sum() / 36  # over all entries, the diagonal included
    torch.testing.assert_close(OF.group_similarity(experts[:, None]) * 5 / 6, of_ernie)


def test_zero_filters_have_no_similarity_and_a_finite_gradient():
    filters = kernel(2, 3, 5)
    filters[0, 1] = 0
    filters.requires_grad_()
    OF.group_similarity(filters).backward()
    assert filters.grad.isfinite().all()
    assert not filters.grad[0, 1].any()


def test_the_distance_is_the_norm_of_each_group_and_has_a_gradient_of_zero_at_zero():
    filters = kernel(2, 3, 5)
    expected = sum(torch.linalg.matrix_norm(group @ group.T - torch.eye(3)) for group in filters)
    torch.testing.assert_close(OF.orthonormality_distance(filters), expected)
    assert torch.autograd.gradcheck(OF.orthonormality_distance, filters.requires_grad_())
    orthonormal = torch.eye(3, 5, dtype=torch.float64).requires_grad_()
    OF.orthonormality_distance(orthonormal).backward()
    assert not orthonormal.grad.any()


def test_bad_arguments_are_named():
    with pytest.raises(ConfigurationError, match=r"anchor of shape \(2, 4\).*5 numbers"):
        OF.cross_gram_penalty(kernel(3, 5), kernel(2, 4))
    with pytest.raises(ConfigurationError, match="norm='l2'"):
        OF.cross_gram_penalty(kernel(3, 5), kernel(2, 5), "l2")
    with pytest.raises(ConfigurationError, match=r"\(1, 3, 5\).*two or more groups"):
        OF.group_similarity(kernel(1, 3, 5))
    with pytest.raises(ArgumentTypeError):
        OF.orthonormality_distance(torch.ones(3, 3, dtype=torch.long))
