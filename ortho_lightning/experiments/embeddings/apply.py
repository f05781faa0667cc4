"""``ortho-whiten apply=whitening.safetensors to=vectors.npy``: whiten the vectors of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.npy import open_vectors, output_path
from ortho_lightning.files import whole_file
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import parts


def apply_to_file(config: DictConfig) -> None:
    """Whiten the vectors in ``config.to`` with ``config.apply``, write them to ``config.out``, and print their shape.

    The memory does not depend on the number of vectors.
    """
    out = output_path(config, ".npy")
    if config.to is None:
        raise ConfigurationError("to=null: name the .npy file of the vectors to whiten, to=vectors.npy")
    if out.resolve() == Path(config.to).expanduser().resolve():
        raise ConfigurationError(f"out={config.out}: would replace the vectors that it reads; name another file")
    whitening = Whitening.load(config.apply)
    vectors = open_vectors(config.to)
    d, k = whitening.fitted_shape
    if vectors.shape[1] != d:
        raise DataError(f"{config.to} has vectors of {vectors.shape[1]} numbers; {config.apply} was fitted on {d}")
    _write(out, whitening, vectors, config)
    print(f"{config.out}: {len(vectors)} vectors of {k} numbers")


def _write(out: Path, whitening: Whitening, vectors: np.ndarray, config: DictConfig) -> None:
    _, k = whitening.fitted_shape
    dtype = np.float64 if whitening.projection.dtype == torch.float64 else np.float32
    with whole_file(out) as temporary:
        whitened = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(vectors), k))
        start = 0
        for part in parts(vectors, config.progress) if len(vectors) else ():
            here = whitening(part)
            if not here.isfinite().all():
                bad = int((~here.isfinite().all(1)).nonzero()[0])
                raise DataError(f"{config.to}: row {start + bad} holds NaN or infinity, or numbers too large to whiten")
            whitened[start : start + len(here)] = here.numpy()
            start += len(here)
        whitened.flush()
