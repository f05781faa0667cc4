"""The kinds of files with vectors, by the ending of the name."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.vector_files.base import Layout, Part, VectorFile


@dataclass(frozen=True)
class _Kind:
    """A kind of file: its module, the names of reader and writer in it, and the extra that it needs."""

    module: str
    reader: str
    writer: str
    extra: str | None = None

    def load(self, name: str) -> Any:
        package = __name__.rpartition(".")[0]
        try:
            return getattr(importlib.import_module(f"{package}.{self.module}"), name)
        except ImportError as error:
            raise ConfigurationError(
                f"{name} needs {error.name}: pip install 'ortho-lightning[{self.extra}]'"
            ) from None


_PARQUET = _Kind("columns", "ParquetFile", "write_parquet", "arrow")
_ARROW = _Kind("columns", "ArrowFile", "write_arrow", "arrow")
_INDEX = _Kind("index", "IndexFile", "write_index", "faiss")
KINDS = {
    ".npy": _Kind("arrays", "NpyFile", "write_npy"),
    ".npz": _Kind("arrays", "NpzFile", "write_npz"),
    ".safetensors": _Kind("tensors", "SafetensorsFile", "write_safetensors"),
    ".parquet": _PARQUET,
    ".arrow": _ARROW,
    ".feather": _ARROW,
    ".faiss": _INDEX,
    ".index": _INDEX,
}
_TEXT = {".csv": ", delimiter=','", ".tsv": "", ".txt": ""}


def open_vectors(path: Path, key: str | None = None) -> VectorFile:
    """Open a file of vectors; only its description is read.

    Args:
        path: of the file; its ending gives its kind.
        key: name of the array, tensor or column, where the file has several of vectors.

    Raises:
        DataError: for a file that is missing, truncated, of another kind, or without vectors, naming it.
        ConfigurationError: for a kind whose extra is not installed.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    reader = _kind(path).load(_kind(path).reader)
    try:
        return reader(path, key)
    except Exception as error:
        raise _readable(path, error) from error


def read_parts(file: VectorFile) -> Iterator[Part]:
    """Yield the parts of a file.

    Raises:
        DataError: for a file that turns out to be damaged, naming it.
    """
    try:
        yield from file.parts()
    except Exception as error:
        raise _readable(file.path, error) from error


def write_vectors(path: Path, kind: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write vectors to ``path`` as the kind of file that ``kind`` is named."""
    chosen = KINDS[kind.suffix]
    chosen.load(chosen.writer)(path, parts, layout)


def check_output(out: Path) -> None:
    """Reject a name whose ending is no kind of file, or whose extra is not installed.

    Raises:
        ConfigurationError: naming the endings.
    """
    if out.suffix not in KINDS:
        raise ConfigurationError(f"out={out}: end the name in the kind of file to write, one of {', '.join(KINDS)}")
    KINDS[out.suffix].load(KINDS[out.suffix].writer)


def _kind(path: Path) -> _Kind:
    if path.suffix in KINDS:
        return KINDS[path.suffix]
    if path.suffix in _TEXT:
        loading = f"numpy.loadtxt({path.name!r}, dtype='float32'{_TEXT[path.suffix]})"
        raise DataError(
            f"{path} is text: convert it to .npy, which is read a hundred times faster, with numpy.save("
            f"{path.stem + '.npy'!r}, {loading})"
        )
    raise DataError(f"{path}: vectors are read from files that end in {', '.join(KINDS)}")


def _readable(path: Path, error: Exception) -> Exception:
    if isinstance(error, (DataError, ConfigurationError)):
        return error
    if isinstance(error, (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, SafetensorError)):
        return DataError(f"{path} cannot be read as {path.suffix}: {' '.join(str(error).split())}")
    return error
