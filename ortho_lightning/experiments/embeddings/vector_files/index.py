"""Vectors that a faiss index holds; needs the extra "faiss". Ids and the metric are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ortho_lightning.errors import DataError
from ortho_lightning.experiments.embeddings.vector_files.base import PART_SIZE, Layout, Part, VectorFile

logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every build of the library that it tries to load
import faiss  # noqa: E402


@dataclass(frozen=True, eq=False)
class _Opened:
    """An index from a file, the one inside with the vectors, whose memory it owns, and the ids."""

    whole: Any
    index: Any
    ids: np.ndarray | None


class IndexFile(VectorFile):
    """An index that can reconstruct its vectors, exactly (flat) or approximately (quantized)."""

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        self.dtype = np.dtype(np.float32)
        opened = self._read()
        self.count, self.d, self.metric = opened.index.ntotal, opened.index.d, opened.index.metric_type
        if self.count:
            self._vectors(opened.index, 0, 1)

    def _read(self) -> _Opened:
        whole = faiss.read_index(str(self.path))
        index, ids = whole, None
        if isinstance(whole, (faiss.IndexIDMap, faiss.IndexIDMap2)):
            ids = faiss.vector_to_array(whole.id_map)
            index = faiss.downcast_index(whole.index)
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None:
            inverted.make_direct_map()
        return _Opened(whole, index, ids)

    def _vectors(self, index: Any, start: int, n: int) -> np.ndarray:
        try:
            return index.reconstruct_n(start, n)
        except RuntimeError as error:
            raise DataError(
                f"{self.path}: a {type(index).__name__} that cannot reconstruct its vectors ({error}). Give the file "
                "that it was built from"
            ) from None

    def parts(self) -> Iterator[Part]:
        """Yield reconstructed vectors, and ids where the index has its own."""
        opened = self._read()
        for start in range(0, self.count, PART_SIZE):
            n = min(PART_SIZE, self.count - start)
            ids = None if opened.ids is None else opened.ids[start : start + n]
            yield Part(self._vectors(opened.index, start, n), ids)


def write_index(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write a flat index of the same metric, with the ids if there were any."""
    metric = faiss.METRIC_INNER_PRODUCT if layout.metric is None else layout.metric
    index: Any = faiss.IndexFlat(layout.k, metric)
    ids = []
    for part in parts:
        index.add(np.ascontiguousarray(part.vectors, np.float32))
        if isinstance(part.others, np.ndarray):
            ids.append(part.others)
    if ids:
        numbered = faiss.IndexIDMap2(faiss.IndexFlat(layout.k, metric))
        numbered.add_with_ids(index.reconstruct_n(0, index.ntotal), np.concatenate(ids))
        index = numbered
    faiss.write_index(index, str(path))
