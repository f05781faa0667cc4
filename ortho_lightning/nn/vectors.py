"""Vectors in the forms that users have: a tensor, an array, a memory map or an iterable of batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ortho_lightning.errors import ArgumentTypeError, ConfigurationError
from ortho_lightning.functional.moments import Moments, check_rows

Vectors: TypeAlias = "Tensor | np.ndarray | Iterable[Any]"

# Vectors taken from a tensor, array or memory map at a time: the unit of the progress bar.
_PART_SIZE = 16384


def as_tensor(vectors: Any, device: torch.device | str = "cpu") -> Tensor:
    """Convert an array to a tensor on ``device``, sharing memory if possible.

    Tensors are returned unchanged, on their own device.

    Raises:
        TypeError: for anything else, and for arrays whose numbers are not floating point.
    """
    if isinstance(vectors, Tensor):
        return vectors
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f" or vectors.dtype.itemsize > 8:
        kind = f"an array of {vectors.dtype}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise ArgumentTypeError(f"vectors must be a tensor or an array of float16, float32 or float64, got {kind}")
    native = np.ascontiguousarray(vectors, dtype=vectors.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing writes to it
        return torch.from_numpy(native).to(device)


def parts(vectors: Vectors, progress: bool = False) -> Iterator[Tensor]:
    """Yield the vectors part by part, ``(n, d)`` each; a memory map is read as the parts are requested.

    Args:
        vectors: a tensor or array ``(N, d)``, or an iterable of such; a batch may also be a tuple or list with one of
            them, as a DataLoader over a TensorDataset yields.
        progress: show a bar with the number of vectors read so far.

    Raises:
        TypeError: for vectors or a batch of another kind, naming the batch.
        ConfigurationError: for vectors or a batch of another shape, naming the batch.
    """
    whole = isinstance(vectors, (Tensor, np.ndarray))
    if whole and vectors.ndim != 2:  # type: ignore[union-attr]
        raise ConfigurationError(f"vectors must be (N, d), got shape {tuple(vectors.shape)}")  # type: ignore[union-attr]
    if not whole and not isinstance(vectors, Iterable):
        raise ArgumentTypeError(
            f"vectors must be a tensor, an array or an iterable of batches, got {type(vectors).__name__}"
        )
    found = _slices(vectors) if whole else _batches(vectors)
    total = len(vectors) if whole else None  # type: ignore[arg-type]
    with tqdm(total=total, unit=" vectors", disable=not progress) as bar:
        for part in found:
            yield part
            bar.update(len(part))


def _slices(vectors: Any) -> Iterator[Tensor]:
    for start in range(0, max(len(vectors), 1), _PART_SIZE):
        yield as_tensor(vectors[start : start + _PART_SIZE])


def _batches(batches: Any) -> Iterator[Tensor]:
    for number, batch in enumerate(batches):
        if isinstance(batch, (tuple, list)) and len(batch) == 1:
            batch = batch[0]
        try:
            tensor = as_tensor(batch)
            check_rows(tensor)
        except (TypeError, ValueError) as error:
            raise type(error)(f"batch {number}: {error}") from None
        yield tensor


def moments_of(
    vectors: Vectors,
    progress: bool = False,
    first: int = 0,
    check_width: Callable[[int], None] | None = None,
    weights: Tensor | np.ndarray | None = None,
    accumulation: torch.dtype = torch.float64,
) -> Moments:
    """Return the moments of all the vectors, computed in one pass.

    Args:
        vectors: see :func:`parts`.
        progress: show a bar with the number of vectors read so far.
        first: number of the first vector, from which error messages count.
        check_width: called with d before a part is read; raises to reject it.
        weights: ``(N,)`` of all the vectors, in their order; None: 1 each.
        accumulation: see :meth:`~ortho_lightning.functional.Moments.of`.

    Raises:
        TypeError: as :func:`parts`.
        ConfigurationError: as :func:`parts`; for NaN or infinity, naming the vector; for an iterable without a batch;
            for another number of weights than vectors.
    """
    factors = None if weights is None else _weights(weights)
    if factors is not None and isinstance(vectors, (Tensor, np.ndarray)):
        _check_number(factors, len(vectors))

    def pairs() -> Iterator[tuple[Tensor, Tensor | None]]:
        read = 0
        for part in parts(vectors, progress):
            if check_width is not None:
                check_width(part.shape[1])
            if factors is not None and read + len(part) > len(factors):
                raise ConfigurationError(f"{len(factors)} weights for more vectors: give one weight for each vector")
            yield part, None if factors is None else factors[read : read + len(part)]
            read += len(part)
        if factors is not None:
            _check_number(factors, read)

    return Moments.of_batches(pairs(), first, accumulation)


def _weights(weights: Tensor | np.ndarray) -> Tensor:
    try:
        found = torch.as_tensor(np.asarray(weights, dtype=np.float64) if not isinstance(weights, Tensor) else weights)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"weights must be numbers, one for each vector: {error}") from None
    if found.dim() != 1 or found.is_complex():
        raise ConfigurationError(f"weights {tuple(found.shape)}: give one number for each vector, (N,)")
    return found


def _check_number(weights: Tensor, vectors: int) -> None:
    if len(weights) != vectors:
        raise ConfigurationError(f"{len(weights)} weights for {vectors} vectors: give one weight for each vector")
