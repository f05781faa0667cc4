"""Numerics shared by the public functions: precision, unit vectors, matrices without their diagonal."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ortho_lightning.errors import ArgumentTypeError, ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Cast the first argument to at least float32 and switch autocast off for the call.

    Under autocast a float32 matrix product silently becomes bfloat16, whose eight bits cannot hold a sum of squares.

    Raises:
        ArgumentTypeError: from the decorated function, if its first argument is not a floating-point tensor.
        ConfigurationError: from the decorated function, if that has fewer than two dimensions.
    """

    @functools.wraps(function)
    def wrapper(values: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise ArgumentTypeError(
                f"{function.__name__} needs a floating-point tensor, got {kind}: convert it with .float()"
            )
        if values.dim() < 2:
            raise ConfigurationError(
                f"{function.__name__} needs two or more dimensions, got shape {tuple(values.shape)}: "
                "a single filter or output column still needs its own axis"
            )
        with torch.autocast(device_type=values.device.type, enabled=False):
            return function(values.to(torch.promote_types(values.dtype, torch.float32)), *args, **kwargs)

    return wrapper


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Divide vectors along ``dim`` by their lengths; zero vectors stay zero and get zero gradient.

    So do vectors near the smallest number of the dtype, whose gradient, of the order of 1 / length, would overflow.
    Vectors that are not finite become NaN, so that a training that diverged does not look like one of right angles.
    """
    # The largest entry is divided out first so that squares neither overflow nor vanish. It needs no gradient:
    # the direction does not depend on it.
    if vectors.shape[dim] == 0:
        return vectors
    largest = vectors.detach().abs().amax(dim=dim, keepdim=True)
    counts = ~(largest <= 1e6 * torch.finfo(vectors.dtype).tiny)  # true for NaN
    vectors = torch.where(counts, vectors, 0.0) / torch.where(counts, largest, 1.0)
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(counts, length, 1.0)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return the matrix ``(..., k, k)`` with zeros on its diagonal."""
    eye = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(eye, 0.0)
