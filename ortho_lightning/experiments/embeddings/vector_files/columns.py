"""Vectors in a list column of Parquet and Arrow files; needs the extra "arrow". The other columns are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ortho_lightning.errors import DataError
from ortho_lightning.experiments.embeddings.vector_files.base import PART_SIZE, Layout, Part, VectorFile, chosen_name


class _ColumnFile(VectorFile):
    """A table with one column of vectors, or a key that names it."""

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        schema, self.count = self._describe()
        vectors = {field.name: str(field.type) for field in schema if _is_vector(field.type)}
        self.name = chosen_name(path, vectors, "column", key)
        kind = schema.field(self.name).type
        self.dtype = np.dtype(kind.value_type.to_pandas_dtype())
        self.d = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length()
        if self.d == 0:
            raise DataError(f"{path}: column {self.name} has vectors without numbers")

    def _describe(self) -> tuple[pa.Schema, int]:
        raise NotImplementedError

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def _first_length(self) -> int:
        for batch in self._batches([self.name]):
            for row in batch.column(self.name):
                if not row.is_valid:
                    raise DataError(f"{self.path}: row 0 of column {self.name} is null; leave it out")
                return len(row)
        raise DataError(f"{self.path}: column {self.name} has no row, and its type gives no size of a vector")

    def parts(self) -> Iterator[Part]:
        """Yield the vectors with the batches that they are in."""
        row = 0
        for batch in self._batches(None):
            for start in range(0, batch.num_rows, PART_SIZE):
                part = batch.slice(start, PART_SIZE)
                yield Part(self._vectors(part.column(self.name), row), part)
                row += part.num_rows

    def _vectors(self, column: Any, row: int) -> np.ndarray:
        if column.null_count:
            first = row + int(column.is_null().to_numpy(zero_copy_only=False).argmax())
            raise DataError(f"{self.path}: row {first} of column {self.name} is null; leave it out")
        if not pa.types.is_fixed_size_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            if (lengths != self.d).any():
                at = int((lengths != self.d).argmax())
                raise DataError(
                    f"{self.path}: row {row + at} of column {self.name} has {lengths[at]} numbers, the first has "
                    f"{self.d}"
                )
        values = column.flatten()
        if values.null_count:
            first = row + int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // self.d
            raise DataError(f"{self.path}: row {first} of column {self.name} holds a null number")
        return values.to_numpy().reshape(len(column), self.d)


class ParquetFile(_ColumnFile):
    """A Parquet file."""

    def _describe(self) -> tuple[pa.Schema, int]:
        with pq.ParquetFile(self.path) as file:
            return file.schema_arrow, file.metadata.num_rows

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(batch_size=PART_SIZE, columns=columns)


class ArrowFile(_ColumnFile):
    """An Arrow file in the file format (also Feather) or the stream format (also of Hugging Face's datasets)."""

    def _describe(self) -> tuple[pa.Schema, int]:
        with pa.memory_map(str(self.path)) as source, _reader(source) as reader:
            if isinstance(reader, pa.RecordBatchFileReader):
                return reader.schema, sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
            return reader.schema, sum(batch.num_rows for batch in reader)

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as source, _reader(source) as reader:
            if isinstance(reader, pa.RecordBatchFileReader):
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                yield from reader


def _reader(source: pa.NativeFile) -> Any:
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def write_parquet(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write a Parquet file, without dictionaries: hardly a number repeats."""
    _write(parts, layout, lambda schema: pq.ParquetWriter(path, schema, use_dictionary=False))


def write_arrow(path: Path, parts: Iterator[Part], layout: Layout) -> None:
    """Write an Arrow file in the file format."""
    with pa.OSFile(str(path), "wb") as sink:
        _write(parts, layout, lambda schema: pa.ipc.new_file(sink, schema))


def _write(parts: Iterator[Part], layout: Layout, open_writer: Callable[[pa.Schema], Any]) -> None:
    writer: Any = None
    try:
        for part in parts:
            batch = _replaced(part, layout)
            writer = open_writer(batch.schema) if writer is None else writer
            writer.write_batch(batch)
        if writer is None:
            empty = Part(np.empty((0, layout.k), layout.dtype))
            writer = open_writer(_replaced(empty, layout).schema)
    finally:
        if writer is not None:
            writer.close()


def _replaced(part: Part, layout: Layout) -> pa.RecordBatch:
    """The rows with the new vectors in place of the old ones."""
    numbers = pa.array(np.ascontiguousarray(part.vectors, layout.dtype).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(numbers, layout.k)
    if not isinstance(part.others, pa.RecordBatch):
        return pa.record_batch([vectors], names=[layout.name])
    names = part.others.schema.names
    columns = [vectors if name == layout.name else part.others.column(name) for name in names]
    return pa.record_batch(columns, names=names)
