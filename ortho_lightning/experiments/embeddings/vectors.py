"""Fitting a whitening to vectors in a file, and applying it to a file, in memory that their number does not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.files import whole_file
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import parts


def fit(config: DictConfig) -> Whitening:
    """Fit on the vectors in ``config.fit``, a .npy file, and write the whitening to ``config.out``."""
    out = _output(config, ".safetensors")
    vectors = open_vectors(config.fit)
    k = config.n_components
    if k is not None and k > vectors.shape[1]:
        raise ConfigurationError(f"n_components={k}: {config.fit} has vectors of {vectors.shape[1]} numbers")
    whitening = Whitening(k, float(config.beta), float(config.gamma))
    if vectors.dtype.itemsize == 8:
        whitening.double()
    try:
        whitening.fit(vectors, progress=config.progress)
    except ConfigurationError:
        raise
    except ValueError as error:
        raise DataError(f"{config.fit}: {error}") from error
    whitening.save(out)
    return whitening


def apply(config: DictConfig) -> tuple[int, int]:
    """Whiten the vectors in ``config.to`` with ``config.apply`` into ``config.out``; the shape of what was written."""
    out = _output(config, ".npy")
    if config.to is None:
        raise ConfigurationError("to=null: name the .npy file of the vectors to whiten, to=vectors.npy")
    if out.resolve() == Path(config.to).expanduser().resolve():
        raise ConfigurationError(f"out={config.out}: would replace the vectors that it reads; name another file")
    whitening = Whitening.load(config.apply)
    vectors = open_vectors(config.to)
    d, k = whitening.projection.shape
    if vectors.shape[1] != d:
        raise DataError(f"{config.to} has vectors of {vectors.shape[1]} numbers; {config.apply} was fitted on {d}")
    dtype = np.float64 if whitening.projection.dtype == torch.float64 else np.float32
    with whole_file(out) as temporary:
        small = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(vectors), k))
        start = 0
        for part in parts(vectors, config.progress) if len(vectors) else ():
            rows = whitening(part)
            if not rows.isfinite().all():
                bad = int((~rows.isfinite().all(1)).nonzero()[0])
                raise DataError(f"{config.to}: row {start + bad} holds NaN or infinity, or numbers too large to whiten")
            small[start : start + len(rows)] = rows.numpy()
            start += len(rows)
        small.flush()
    return len(vectors), k


def open_vectors(path: str) -> np.ndarray:
    """The array of a .npy file as a read-only memory map.

    Raises:
        DataError: for a file that is missing, truncated, or not ``(N, d)`` floating point.
    """
    try:
        vectors = np.load(Path(path).expanduser(), mmap_mode="r")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file of numbers: {error}") from error
    if not isinstance(vectors, np.ndarray):
        raise DataError(f"{path} is an archive of arrays: save the vectors alone, with numpy.save")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.shape[1] == 0:
        raise DataError(f"{path} holds {vectors.dtype} {vectors.shape}; vectors are floating point (N, d)")
    return vectors


def _output(config: DictConfig, ending: str) -> Path:
    if config.out is None:
        raise ConfigurationError(f"out=null: name the file to write, out=NAME{ending}")
    if Path(config.out).suffix != ending:
        raise ConfigurationError(f"out={config.out}: the file is written as {ending}; name it so")
    return Path(config.out).expanduser()
