"""A file of vectors, read part by part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ortho_lightning.errors import DataError

# Vectors that are read at a time: 50 MB at d = 768 in float32.
PART_SIZE = 16384


@dataclass(frozen=True, eq=False)
class Part:
    """Some vectors of a file, in its order.

    Attributes:
        vectors: ``(n, d)``.
        others: the rest of these rows, for files that keep more than vectors: a ``pyarrow.RecordBatch``, or the ids of
            an index.
    """

    vectors: np.ndarray
    others: Any = None


@dataclass(frozen=True)
class Layout:
    """Shape of the vectors to write.

    Attributes:
        count: number of vectors.
        k: numbers of a vector.
        dtype: of the numbers.
        name: of the column, array or tensor, where the kind has names.
        metric: of a faiss index; None: the inner product.
    """

    count: int
    k: int
    dtype: np.dtype
    name: str = "vectors"
    metric: int | None = None


class VectorFile(ABC):
    """A file of vectors.

    Attributes:
        path: of the file.
        count: number of vectors.
        d: numbers of a vector.
        dtype: of the numbers.
        name: of the column, array or tensor with the vectors.
        metric: of a faiss index; None for other files.
    """

    path: Path
    count: int
    d: int
    dtype: np.dtype
    name: str = "vectors"
    metric: int | None = None

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Yield the vectors in order, at most :data:`PART_SIZE` at a time."""


def checked_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Return N and d of vectors in a file.

    Raises:
        DataError: for anything but ``(N, d)`` floating point, naming the file.
    """
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8 or shape[1] == 0:
        raise DataError(f"{path} holds {dtype} {tuple(shape)}; vectors are floating point (N, d)")
    return shape[0], shape[1]


def chosen_name(path: Path, candidates: Mapping[str, str], what: str, key: str | None) -> str:
    """Return the name of the vectors among several things in a file.

    Args:
        path: of the file, for errors.
        candidates: what may be meant, with descriptions.
        what: the word for one of them.
        key: the name that was asked for; None: there is only one.

    Raises:
        DataError: if there is none, or several without a key, or not the one asked for.
    """
    if key is not None and key in candidates:
        return key
    listed = ", ".join(f"{name} ({text})" for name, text in candidates.items()) or "none"
    if key is not None:
        raise DataError(f"{path} has no {what} of vectors named {key!r}; it has: {listed}")
    if len(candidates) != 1:
        raise DataError(f"{path} has {len(candidates)} {what}s of vectors ({listed}); name the one to read, key=NAME")
    return next(iter(candidates))
