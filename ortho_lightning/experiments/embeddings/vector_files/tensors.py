"""Vectors in safetensors files, read by slices and written as a stream."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from ortho_lightning.experiments.embeddings.vector_files.base import (
    PART_SIZE,
    Layout,
    Part,
    VectorFile,
    checked_shape,
    chosen_name,
)

_DTYPES = {"F16": np.float16, "BF16": np.float32, "F32": np.float32, "F64": np.float64}
_NAMES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}


class SafetensorsFile(VectorFile):
    """A safetensors file with one matrix of vectors, or a key that names it."""

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        vectors, found = {}, {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                part = file.get_slice(name)
                if len(part.get_shape()) == 2 and part.get_dtype() in _DTYPES:
                    found[name] = (tuple(part.get_shape()), np.dtype(_DTYPES[part.get_dtype()]))
                    vectors[name] = f"{part.get_dtype()} {part.get_shape()}"
        self.name = chosen_name(path, vectors, "tensor", key)
        shape, self.dtype = found[self.name]
        self.count, self.d = checked_shape(path, shape, self.dtype)

    def parts(self) -> Iterator[Part]:
        """Yield slices; bfloat16 becomes float32, which numpy has."""
        with safe_open(self.path, "pt") as file:
            vectors = file.get_slice(self.name)
            for start in range(0, self.count, PART_SIZE):
                part = vectors[start : start + PART_SIZE]
                yield Part((part.float() if part.dtype == torch.bfloat16 else part).numpy())


def write_safetensors(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write one tensor: eight bytes with the size of the header, the header in JSON, the numbers."""
    size = layout.count * layout.k * layout.dtype.itemsize
    entry = {"dtype": _NAMES[layout.dtype], "shape": [layout.count, layout.k], "data_offsets": [0, size]}
    header = json.dumps({layout.name: entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for part in parts:
            file.write(np.ascontiguousarray(part.vectors, layout.dtype.newbyteorder("<")).tobytes())
