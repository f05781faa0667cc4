"""One pass over a data set: moments, and a sample of vectors that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.vector_files import Dataset, VectorFile
from ortho_lightning.experiments.embeddings.vector_files.kinds import read_parts
from ortho_lightning.nn.vectors import as_tensor


@dataclass(eq=False)
class Sample:
    """Vectors of a data set that are kept aside while it is read.

    Args:
        count: number of vectors of the data set.
        queries: how many to hold out of the moments.
        base: how many of the others to keep.
        seed: of the choice, which depends on nothing else.
    """

    count: int
    queries: int
    base: int
    seed: int = 0
    _found: dict[str, list[Tensor]] = field(default_factory=lambda: {"queries": [], "base": []})

    def __post_init__(self) -> None:
        chosen = np.random.default_rng(self.seed).choice(self.count, self.queries + self.base, replace=False)
        self._at = {"queries": np.sort(chosen[: self.queries]), "base": np.sort(chosen[self.queries :])}

    def take(self, part: Tensor, first: int) -> Tensor | None:
        """Keep the chosen vectors of a part; return a mask of those that are not held out, or None for all."""
        mask = None
        for kind, rows in self._at.items():
            here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(part))] - first
            if len(here):
                at = torch.from_numpy(here)
                self._found[kind].append(part[at].clone())
                if kind == "queries":
                    mask = torch.ones(len(part), dtype=torch.bool).index_fill_(0, at, False)
        return mask

    def vectors(self, kind: str) -> Tensor:
        """Return what was kept, as "queries" or "base"."""
        return torch.cat(self._found[kind])


def moments_of_shard(
    shard: VectorFile,
    weights: Path | None = None,
    accumulation: torch.dtype = torch.float64,
    sample: Sample | None = None,
    first: int = 0,
    bar: tqdm | None = None,
) -> OF.Moments:
    """Return the moments of the vectors of a file, those held out by ``sample`` excepted.

    Args:
        shard: the file.
        weights: .npy file of its weights, or a folder that holds one of its stem; None: 1 each.
        accumulation: see :meth:`~ortho_lightning.functional.Moments.of`.
        sample: keeps vectors of the file; None: none.
        first: number of the file's first vector in the data set.
        bar: to advance.

    Raises:
        DataError: for a damaged file, NaN or infinity, or weights that do not belong to it, naming file and row.
    """
    factors = _weights_of(shard, weights)
    last: list[tuple[Tensor, int]] = []

    def pairs() -> Iterator[tuple[Tensor, Tensor | None]]:
        row = 0
        for part in read_parts(shard):
            vectors = as_tensor(part.vectors)
            last[:] = [(vectors, row)]
            here = None if factors is None else factors[row : row + len(vectors)]
            mask = None if sample is None else sample.take(vectors, first + row)
            if mask is not None:
                vectors, here = vectors[mask], None if here is None else here[mask]
            yield vectors, here
            row += len(part.vectors)
            if bar is not None:
                bar.update(len(part.vectors))

    if shard.count == 0:
        return OF.Moments.empty(shard.d)
    try:
        return OF.Moments.of_batches(pairs(), 0, accumulation)
    except DataError:
        raise
    except ConfigurationError as error:
        raise DataError(f"{shard.path}: {_with_rows_of_the_file(error, last)}") from error


def _with_rows_of_the_file(error: ConfigurationError, last: list[tuple[Tensor, int]]) -> ConfigurationError:
    """The error for the whole of the last part: without the held-out vectors its rows had other numbers."""
    try:
        OF.Moments.of(*last[0])
    except ConfigurationError as again:
        return again
    return error


def open_weights(shard: VectorFile, weights: Path) -> np.ndarray:
    """Open the weights of a file's vectors, without reading them.

    Args:
        shard: the file.
        weights: .npy file of its weights, or a folder that holds one of its stem.

    Raises:
        DataError: for weights that are missing, or do not belong to the file, naming both.
    """
    path = weights / f"{shard.path.stem}.npy" if weights.is_dir() else weights
    try:
        found = np.load(path, mmap_mode="r")
        if found.shape != (shard.count,) or found.dtype.kind not in "fiu":
            raise ValueError(f"{found.dtype} {found.shape}, and {shard.path} has {shard.count} vectors")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as the weights of {shard.path}: {error}") from error
    return found


def _weights_of(shard: VectorFile, weights: Path | None) -> Tensor | None:
    if weights is None:
        return None
    factors = torch.from_numpy(open_weights(shard, weights).astype(np.float64))
    wrong = (~((factors >= 0) & factors.isfinite())).nonzero().flatten()
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"weight {at} of {shard.path} in {weights} is {float(factors[at])}; weights are 0 or positive numbers"
        )
    return factors


def sampled_moments(
    dataset: Dataset, sample: Sample, weights: Path | None, dtype: torch.dtype, bar: tqdm
) -> OF.Moments:
    """Return the moments of all vectors that ``sample`` does not hold out, which it keeps."""
    moments, first = OF.Moments.empty(dataset.d), 0
    for shard in dataset.shards:
        moments = moments.merge(moments_of_shard(shard, weights, dtype, sample, first, bar))
        first += shard.count
    return moments
