"""Options of the commands on files, checked before any work."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors import SafetensorError

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.nn.hyperparameters import LEDOIT_WOLF, Hyperparameters, Shrinkage

_FULL = (errno.ENOSPC, errno.EDQUOT)


def hyperparameters(config: DictConfig) -> Hyperparameters:
    """Return the hyper-parameters of a whitening in a configuration.

    Raises:
        ConfigurationError: for a value outside its range.
    """
    return Hyperparameters(config.n_components, config.beta, config.gamma, shrinkage(config), config.eps)


def shrinkage(config: DictConfig) -> Shrinkage:
    """Return the shrinkage of a configuration: a number, or "ledoit-wolf"."""
    return LEDOIT_WOLF if config.shrinkage == LEDOIT_WOLF else config.shrinkage


def accumulation(config: DictConfig) -> torch.dtype:
    """Return the dtype in ``config.accumulation``.

    Raises:
        ConfigurationError: for anything but float32 and float64.
    """
    if config.accumulation not in ("float32", "float64"):
        raise ConfigurationError(f"accumulation={config.accumulation}: must be float64, or float32 to be faster")
    return torch.float64 if config.accumulation == "float64" else torch.float32


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


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn errors of the disk into one that names the file.

    Raises:
        DataError: for a full disk, and for a place where nothing can be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if (isinstance(error, OSError) and error.errno in _FULL) or "No space left" in str(error):
            raise DataError(
                f"{out} cannot be written: no space left on its disk. No partial file is left there; free some "
                "space, or name another disk in out=, and run the command again"
            ) from error
        raise DataError(f"{out} cannot be written: {error}") from error
