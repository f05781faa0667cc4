"""``ortho-whiten apply=whitening.safetensors to=VECTORS``: whiten the vectors of a file or a folder of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.checkpoint import stamp
from ortho_lightning.experiments.embeddings.options import writing
from ortho_lightning.experiments.embeddings.processes import joined_processes
from ortho_lightning.experiments.embeddings.vector_files import (
    Dataset,
    Layout,
    Part,
    VectorFile,
    check_output,
    open_dataset,
    write_vectors,
)
from ortho_lightning.experiments.embeddings.vector_files.kinds import read_parts
from ortho_lightning.files import remove_leftovers, whole_file, write_json
from ortho_lightning.nn import Whitening


def apply_to_files(config: DictConfig) -> None:
    """Whiten the vectors in ``config.to`` with ``config.apply``, write them to ``config.out``, and print their shape.

    The memory does not depend on the number of vectors. A folder becomes a folder with a file of the same name for
    each, and those that a run before finished are kept. Under ``torchrun`` every process writes its share of them.
    """
    if config.to is None:
        raise ConfigurationError("to=null: name the vectors to whiten, to=vectors.npy")
    if config.out is None:
        raise ConfigurationError("out=null: name the file to write, out=NAME.npy")
    out, source = Path(config.out).expanduser(), Path(config.to).expanduser()
    if out.resolve() == source.resolve():
        raise ConfigurationError(f"out={config.out}: would replace the vectors that it reads; name another place")
    dataset = open_dataset(config.to, config.key)
    _check_out(config, dataset, out)
    whitening = Whitening.load(config.apply)
    d, k = whitening.fitted_shape
    if dataset.d != d:
        raise DataError(f"{config.to} has vectors of {dataset.d} numbers; {config.apply} was fitted on {d}")
    with joined_processes() as processes:
        shards = processes.share(dataset.shards)
        total = sum(shard.count for shard in shards)
        outputs = [
            _Output(shard, out / shard.path.name if dataset.is_folder else out, config.apply) for shard in shards
        ]
        with tqdm(total=total, unit=" vectors", disable=not config.progress or not processes.is_first) as bar:
            for output in outputs:
                output.write(whitening, bar, resumable=dataset.is_folder)
        processes.wait()
        for output in outputs:
            output.forget()
        if processes.is_first:
            print(f"{config.out}: {dataset.count} vectors of {k} numbers")


def _check_out(config: DictConfig, dataset: Dataset, out: Path) -> None:
    if not dataset.is_folder:
        if out.is_dir():
            raise ConfigurationError(f"out={config.out} is a folder: name the file to write")
        check_output(out)
    elif out.exists() and not out.is_dir():
        raise ConfigurationError(f"out={config.out}: {config.to} is a folder; name a folder to write its files to")


class _Output:
    """A file of whitened vectors.

    A hidden file beside it says that it is done, with which whitening and from which vectors, until all are.
    """

    def __init__(self, shard: VectorFile, path: Path, whitening: str) -> None:
        self._shard = shard
        self._path = path
        self._mark = path.with_name(f".{path.name}.done")
        content = hashlib.sha256(Path(whitening).expanduser().read_bytes()).hexdigest()
        self._identity = [content, *stamp(shard.path)]

    def write(self, whitening: Whitening, bar: tqdm, resumable: bool) -> None:
        if resumable and self._is_done():
            bar.update(self._shard.count)
            return
        _, k = whitening.fitted_shape
        dtype = np.dtype(np.float64 if whitening.projection.dtype == torch.float64 else np.float32)
        layout = Layout(self._shard.count, k, dtype, self._shard.name, self._shard.metric)
        parts = _whitened(self._shard, whitening, bar)
        remove_leftovers(self._path)
        with writing(self._path), whole_file(self._path) as temporary:
            write_vectors(temporary, self._path, parts, layout)
        if resumable:
            with writing(self._mark):
                write_json(self._mark, self._identity)

    def forget(self) -> None:
        self._mark.unlink(missing_ok=True)

    def _is_done(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._path.exists() and json.loads(self._mark.read_text()) == self._identity
        return False


def _whitened(shard: VectorFile, whitening: Whitening, bar: tqdm) -> Iterator[Part]:
    row = 0
    for part in read_parts(shard):
        here = whitening(part.vectors)
        if not here.isfinite().all():
            bad = int((~here.isfinite().all(1)).nonzero()[0])
            raise DataError(f"{shard.path}: row {row + bad} holds NaN or infinity, or numbers too large to whiten")
        yield Part(here.numpy(), part.others)
        row += len(here)
        bar.update(len(here))
