"""Vectors in numpy's files: .npy, read as a memory map, and .npz, read as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ortho_lightning.errors import DataError
from ortho_lightning.experiments.embeddings.vector_files.base import (
    PART_SIZE,
    Layout,
    Part,
    VectorFile,
    checked_shape,
    chosen_name,
)


class NpyFile(VectorFile):
    """A .npy file."""

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        self._vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        self.dtype = self._vectors.dtype
        self.count, self.d = checked_shape(path, self._vectors.shape, self.dtype)

    def parts(self) -> Iterator[Part]:
        """Yield slices of the memory map."""
        for start in range(0, self.count, PART_SIZE):
            yield Part(self._vectors[start : start + PART_SIZE])


class NpzFile(VectorFile):
    """A .npz archive, compressed or not, with one array of vectors or a key that names it."""

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        headers = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _header(file, path)
        vectors = {
            name: f"{dtype} {shape}"
            for name, (shape, _, dtype) in headers.items()
            if len(shape) == 2 and dtype.kind == "f"
        }
        self.name = chosen_name(path, vectors, "array", key)
        shape, self._fortran, self.dtype = headers[self.name]
        self.count, self.d = checked_shape(path, shape, self.dtype)

    def parts(self) -> Iterator[Part]:
        """Yield parts of the stream; zipfile checks its sum at the end."""
        if self._fortran:  # by columns: the first row is known when all is read
            with np.load(self.path) as archive:
                vectors = archive[self.name]
            for start in range(0, self.count, PART_SIZE):
                yield Part(vectors[start : start + PART_SIZE])
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
            _header(file, self.path)
            for start in range(0, self.count, PART_SIZE):
                n = min(PART_SIZE, self.count - start)
                content = file.read(n * self.d * self.dtype.itemsize)
                yield Part(np.frombuffer(content, self.dtype).reshape(n, self.d))
            file.read()  # to its end, where the sum is compared


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects; save arrays of numbers")
    return shape, fortran, dtype


def write_npy(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write a .npy file. Not through a memory map, where a full disk would end the process."""
    with path.open("wb") as file:
        _write(file, parts, layout)


def write_npz(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write an archive with one array, uncompressed: vectors hardly compress."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open(f"{layout.name}.npy", "w", force_zip64=True) as file,
    ):
        _write(file, parts, layout)


def _write(file: IO[bytes], parts: Iterator[Part], layout: Layout) -> None:
    descr = np.lib.format.dtype_to_descr(layout.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (layout.count, layout.k)}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(np.ascontiguousarray(part.vectors, layout.dtype).tobytes())
