"""Description of a module's filters and outputs: the weight, its filters, and where the outputs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ortho_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Rows:
    """Filters along the first axis of a weight ``(out, ...)``, as a linear layer or a convolution keeps them.

    Args:
        groups: parts of the first axis whose filters are compared with one another only, such as attention heads.
        block: ``(i, n)``: of n equal blocks of the first axis only the i-th, from 0; for fused projections.

    Raises:
        ConfigurationError: when called, for a weight that cannot be divided equally.
    """

    groups: int = 1
    block: tuple[int, int] = (0, 1)

    def __call__(self, weight: Tensor) -> Tensor:
        """Return ``(groups, k, d)``."""
        own = _block(self, weight, 0)
        return own.reshape(self.groups, _share(self, "groups", own.shape[0], self.groups), -1)

    @property
    def is_whole(self) -> bool:
        """Whether the filters are the whole weight."""
        return self.block[1] == 1


@dataclass(frozen=True)
class Columns:
    """Filters along the second axis of a weight ``(in, out / groups, ...)``, as a transposed convolution keeps them.

    Filter j collects what leads to channel j. Of a linear layer's ``(out, in)`` they are the columns, one an input.

    Args:
        groups: of a convolution: parts of the first axis with filters of their own.
        heads: parts of the filters that are compared with one another only, such as attention heads.
        block: ``(i, n)``: of n equal blocks of the second axis only the i-th, from 0; for fused projections.

    Raises:
        ConfigurationError: when called, for a weight that cannot be divided equally.
    """

    groups: int = 1
    heads: int = 1
    block: tuple[int, int] = (0, 1)

    def __call__(self, weight: Tensor) -> Tensor:
        """Return ``(groups * heads, k, d)``."""
        own = _block(self, weight, 1)
        inputs, size = own.shape[:2]
        parts = own.reshape(self.groups, _share(self, "groups", inputs, self.groups), size, -1)
        filters = parts.transpose(1, 2).flatten(2)
        if self.heads == 1:
            return filters
        return filters.reshape(self.groups * self.heads, _share(self, "heads", size, self.heads), -1)

    @property
    def is_whole(self) -> bool:
        """Whether the filters are the whole weight."""
        return self.block[1] == 1


def _block(filters: Rows | Columns, weight: Tensor, axis: int) -> Tensor:
    """Return one of n equal blocks of an axis."""
    i, n = filters.block
    if n == 1:
        return weight
    size = _share(filters, "block", weight.shape[axis], n)
    if not 0 <= i < n:
        raise ConfigurationError(f"{filters}: block=(i, n) is the i-th of n equal blocks, from 0 to n - 1")
    return weight.narrow(axis, i * size, size)


def _share(filters: Rows | Columns, option: str, size: int, n: int) -> int:
    if size % n:
        raise ConfigurationError(f"{filters}: {option} divides an axis of {size} into {n} parts, which are not equal")
    return size // n


@dataclass(frozen=True)
class Outputs:
    """Where a module's outputs are.

    Args:
        axis: of the features (one a filter) in the output; negative: from the end.
        bias: dotted name of what was added to the outputs, which is subtracted again; None: nothing was.
        element: index or key of the tensor in an output that is a tuple, a list or a mapping; None: the output is it.
        channels: the part of the axis that belongs to the filters; None: all of it.
        linear: the outputs are the last axis of the first input times the filters, so that they can be computed again
            without a gradient to the layers below (``detach_inputs``).
    """

    axis: int = -1
    bias: str | None = None
    element: int | str | None = None
    channels: slice | None = None
    linear: bool = False


NOT_SEEN = "its outputs are not those of its filters"


@dataclass(frozen=True)
class Kernel:
    """A set of filters that a module holds.

    Args:
        weight: dotted name of the attribute that holds the weight, or several names.
        filters: gives ``(groups, k, d)`` for the weight, or for several weights as arguments of its own each. It is
            also called with tensors of the meta device, to count filters without reading a weight.
        outputs: where the module's outputs for these filters are; or a text that says why there are none. Outputs are
            numbers per filter, ``input . filter`` and perhaps a bias.
        counts: ``(groups, k)`` where reading the weight would compute it (parametrizations), or it has no shape yet
            (lazy layers); None: it is read.
        on_request: selected only by a pattern that names it, ``"layer:part"``: another view of filters that the
            module's other kernels have too.

    Example:
        >>> import torch
        >>> from ortho_lightning.layers import Kernel, Rows
        >>> query = Kernel("in_proj_weight", Rows(block=(0, 3)))  # the first third of a fused projection
        >>> query.filters(torch.ones(12, 5)).shape
        torch.Size([1, 4, 5])
    """

    weight: str | tuple[str, ...] = "weight"
    filters: Callable[..., Tensor] = Rows()
    outputs: Outputs | str = NOT_SEEN
    counts: tuple[int, int] | None = None
    on_request: bool = False

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights."""
        return (self.weight,) if isinstance(self.weight, str) else tuple(self.weight)
