"""Vectors as users have them (a tensor, an array, a memory map, an iterable of batches) as tensors of rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.moments import Moments, check_rows

Rows: TypeAlias = "Tensor | np.ndarray | Iterable[Any]"

# Rows taken from a tensor, array or memory map at a time: the unit of the progress bar.
_PART_ROWS = 16384


def as_tensor(rows: Any, device: torch.device | str = "cpu") -> Tensor:
    """An array's numbers as a tensor on ``device``, sharing memory where it can; tensors stay as and where they are.

    Raises:
        TypeError: for anything else, and for arrays whose numbers are not floating point.
    """
    if isinstance(rows, Tensor):
        return rows
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.dtype.itemsize > 8:
        kind = f"an array of {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise TypeError(f"vectors must be a tensor or an array of float16, float32 or float64, got {kind}")
    native = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing writes: a read-only memory map serves
        return torch.from_numpy(native).to(device)


def parts(rows: Rows, progress: bool = False) -> Iterator[Tensor]:
    """The rows part by part, ``(n, d)`` each; a memory map is read as the parts are asked for.

    Args:
        rows: a tensor or array ``(N, d)``, or an iterable of such; a batch may also be a tuple or list with one of
            them, as a DataLoader over a TensorDataset gives.
        progress: show a bar with the rows read so far.

    Raises:
        TypeError, ValueError: for rows or a batch of another kind or shape, naming the batch.
    """
    whole = isinstance(rows, (Tensor, np.ndarray))
    if whole and rows.ndim != 2:  # type: ignore[union-attr]
        raise ValueError(f"vectors must be (N, d), got shape {tuple(rows.shape)}")  # type: ignore[union-attr]
    if not whole and not isinstance(rows, Iterable):
        raise TypeError(f"vectors must be a tensor, an array or an iterable of batches, got {type(rows).__name__}")
    found = _slices(rows) if whole else _batches(rows)
    with tqdm(total=len(rows) if whole else None, unit=" rows", disable=not progress) as bar:  # type: ignore[arg-type]
        for part in found:
            yield part
            bar.update(len(part))


def _slices(rows: Any) -> Iterator[Tensor]:
    for start in range(0, max(len(rows), 1), _PART_ROWS):
        yield as_tensor(rows[start : start + _PART_ROWS])


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


def moments_of(rows: Rows, progress: bool = False, first_row: int = 0, n_components: int | None = None) -> Moments:
    """The moments of all the rows, in one pass.

    Args:
        rows, progress: see :func:`parts`.
        first_row: number of the first row: what errors count from.
        n_components: refuse vectors with fewer numbers, at the first of them.

    Raises:
        ConfigurationError: for vectors with fewer numbers than ``n_components``.
        TypeError, ValueError: as :func:`parts`; for NaN or infinity, naming the row; for an iterable without a batch.
    """
    moments: Moments | None = None
    for part in parts(rows, progress):
        if n_components is not None and part.shape[1] < n_components:
            raise too_narrow(n_components, part.shape[1])
        here = Moments.of(part, first_row)
        moments = here if moments is None else moments.merge(here)
        first_row += len(part)
    if moments is None:
        raise ValueError("there are no vectors: the iterable gave no batch")
    return moments


def too_narrow(n_components: int, d: int) -> ConfigurationError:
    """What is said of more components than the vectors have numbers."""
    return ConfigurationError(f"n_components={n_components}: the vectors have {d} numbers; give as many or fewer")
