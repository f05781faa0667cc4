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
    vectors: Vectors, progress: bool = False, first: int = 0, check_width: Callable[[int], None] | None = None
) -> Moments:
    """Return the moments of all the vectors, computed in one pass.

    Args:
        vectors: see :func:`parts`.
        progress: show a bar with the number of vectors read so far.
        first: number of the first vector, from which error messages count.
        check_width: called with d before a part is read; raises to reject it.

    Raises:
        TypeError: as :func:`parts`.
        ConfigurationError: as :func:`parts`; for NaN or infinity, naming the vector; for an iterable without a batch.
    """
    moments: Moments | None = None
    for part in parts(vectors, progress):
        if check_width is not None:
            check_width(part.shape[1])
        here = Moments.of(part, first)
        moments = here if moments is None else moments.merge(here)
        first += len(part)
    if moments is None:
        raise ConfigurationError("there are no vectors: the iterable gave no batch")
    return moments
