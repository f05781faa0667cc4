import itertools

import pytest
import torch
from torch import nn

from ortho_lightning import functional as OF


def random_kernel(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(kernel, stride, padding, dilation):
    """Inner products of filters placed on a grid of zeros, shift by shift."""
    k, c, *size = kernel.shape
    extent = [(width - 1) * step + 1 for width, step in zip(size, dilation, strict=True)]
    shifts = [range(-(p // s) * s, (p // s) * s + 1, s) for p, s in zip(padding, stride, strict=True)]
    found = torch.zeros(k, k, *(len(each) for each in shifts), dtype=kernel.dtype)

    def placed(filter_, origin):
        grid = torch.zeros(c, *(3 * width for width in extent), dtype=kernel.dtype)
        place = tuple(
            slice(width + start, 2 * width + start, step)
            for width, start, step in zip(extent, origin, dilation, strict=True)
        )
        grid[(slice(None), *place)] = filter_
        return grid

    for where in itertools.product(*(range(len(each)) for each in shifts)):
        shift = [each[at] for each, at in zip(shifts, where, strict=True)]
        for i, j in itertools.product(range(k), range(k)):
            product = (placed(kernel[i], [0] * len(size)) * placed(kernel[j], shift)).sum()
            found[(i, j, *where)] = product - float(i == j and not any(shift))
    return found


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation"),
    [
        ([3], [1], [1], [1]),
        ([3], [2], [2], [1]),
        ([3, 3], [1, 1], [1, 1], [1, 1]),
        ([3, 3], [1, 1], [2, 2], [1, 1]),
        ([3, 3], [2, 2], [1, 1], [1, 1]),  # a padding below the stride leaves the shift 0 alone
        ([5, 3], [2, 1], [4, 1], [1, 1]),
        ([3, 2], [1, 2], [2, 2], [2, 3]),
        ([2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ],
)
def test_every_entry_is_an_inner_product_of_shifted_filters(size, stride, padding, dilation):
    kernel = random_kernel(3, 2, *size)
    found = OF.self_convolution(kernel, stride, padding, dilation)
    torch.testing.assert_close(found, by_hand(kernel, stride, padding, dilation))


def test_groups_are_separate():
    kernel = random_kernel(3, 2, 4, 3, 3)
    each = torch.stack([OF.self_convolution(group, [1, 1], [1, 1]) for group in kernel])
    torch.testing.assert_close(OF.self_convolution(kernel, [1, 1], [1, 1]), each)


@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (2, 2)])
def test_zero_means_that_the_layers_matrix_has_orthonormal_rows(stride, padding):
    # a kernel of one element each is orthogonal as a convolution; a random one is not, and the matrix says the same
    single = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    single[range(4), range(4), [0, 1, 2, 1], [2, 1, 0, 0]] = 1
    for kernel in (single, random_kernel(4, 4, 3, 3) / 6):
        layer = nn.Conv2d(4, 4, 3, stride=stride, padding=2, bias=False, dtype=torch.float64)
        layer.weight.data.copy_(kernel)
        matrix = torch.func.jacrev(layer)(torch.zeros(4, 9, 9, dtype=torch.float64)).flatten(3).flatten(0, 2)
        inside = matrix @ matrix.T - torch.eye(len(matrix), dtype=torch.float64)
        zero = OF.self_convolution(kernel, [stride] * 2, [padding] * 2).abs().max() < 1e-12
        width = 9 + 2 * 2 - 2
        rows = torch.arange(len(matrix)).view(4, -(-width // stride), -1)
        kept = rows[:, 2:-2, 2:-2].flatten()  # away from the border, where filters are cut off
        assert (inside[kept][:, kept].abs().max() < 1e-12) == zero


def test_gradient():
    kernel = random_kernel(2, 3, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: OF.self_convolution(k, [2, 1], [2, 1], [1, 2]), kernel)


def test_numbers_of_dimensions_must_fit():
    with pytest.raises(ValueError, match=r"stride=\(1,\)"):
        OF.self_convolution(torch.ones(2, 2, 3, 3), [1], [1, 1])
    with pytest.raises(ValueError, match="one to three"):
        OF.self_convolution(torch.ones(2, 2), [1], [1])
