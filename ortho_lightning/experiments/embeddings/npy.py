"""Vectors in .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError, DataError


def open_vectors(path: str) -> np.ndarray:
    """Open the array of a .npy file as a read-only memory map.

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


def output_path(config: DictConfig, ending: str) -> Path:
    """Return the path in ``config.out``.

    Raises:
        ConfigurationError: if there is none, or it has another ending.
    """
    if config.out is None:
        raise ConfigurationError(f"out=null: name the file to write, out=NAME{ending}")
    if Path(config.out).suffix != ending:
        raise ConfigurationError(f"out={config.out}: the file is written as {ending}; name it so")
    return Path(config.out).expanduser()
