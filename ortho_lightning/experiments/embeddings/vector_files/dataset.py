"""A data set: a file of vectors, or a folder of such files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ortho_lightning.errors import DataError
from ortho_lightning.experiments.embeddings.vector_files.base import VectorFile
from ortho_lightning.experiments.embeddings.vector_files.kinds import KINDS, open_vectors


@dataclass(frozen=True, eq=False)
class Dataset:
    """Vectors of one width in one or more files.

    Attributes:
        path: the file or folder.
        shards: the files, sorted by name.
        is_folder: whether the path is a folder.
    """

    path: Path
    shards: tuple[VectorFile, ...]
    is_folder: bool

    @property
    def count(self) -> int:
        """Number of vectors in all files."""
        return sum(shard.count for shard in self.shards)

    @property
    def d(self) -> int:
        """Numbers of a vector."""
        return self.shards[0].d

    @property
    def is_double(self) -> bool:
        """Whether any file holds float64."""
        return any(shard.dtype == np.float64 for shard in self.shards)


def open_dataset(path: str, key: str | None = None) -> Dataset:
    """Open a file, or all files of vectors directly in a folder; hidden files and other kinds are left out.

    Args:
        path: of the file or folder.
        key: as for :func:`open_vectors`, for every file.

    Raises:
        DataError: for a path that does not exist, a folder without vectors, or files of different widths; as
            :func:`open_vectors`.
        ConfigurationError: as :func:`open_vectors`.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        return Dataset(place, (open_vectors(place, key),), False)
    found = sorted(file for file in place.iterdir() if file.suffix in KINDS and not file.name.startswith("."))
    if not found:
        raise DataError(f"{place} holds no files of vectors: none ends in {', '.join(KINDS)}")
    shards = tuple(open_vectors(file, key) for file in found)
    for shard in shards[1:]:
        if shard.d != shards[0].d:
            raise DataError(
                f"{shard.path} has vectors of {shard.d} numbers, {shards[0].path} of {shards[0].d}: the files of a "
                "folder are one data set"
            )
    return Dataset(place, shards, True)
