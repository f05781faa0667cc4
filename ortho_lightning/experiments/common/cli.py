"""The folder of the configuration, and error messages for users; shared by every command."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.configuration import configuration_folder
from ortho_lightning.errors import ConfigurationError, DataError

T = TypeVar("T")


def conf_dir() -> str:
    """Return the folder of the configuration, as Hydra takes it."""
    return str(configuration_folder())


def short_hash(text: Any) -> str:
    """Return eight characters for a command line: the same comparison finds its folder again."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:8]


# for the configuration of compare; here, so that every process of a launcher has it
OmegaConf.register_new_resolver("short_hash", short_hash, replace=True)


def _plain(error: Exception) -> str:
    """The reason and the part of the configuration, without what Hydra wraps around a constructor's error."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, ValueError):
        place = str(error).rpartition("full_key: ")[2]
        return f"{error.__cause__} (while making {place})"
    return str(error)


def plain_errors(task: Callable[[DictConfig], T]) -> Callable[[DictConfig], T]:
    """Make a task end with one line for an error that a user can correct; HYDRA_FULL_ERROR=1 shows the stack."""

    @functools.wraps(task)
    def wrapper(config: DictConfig) -> T:
        try:
            return task(config)
        except (ConfigurationError, DataError, InstantiationException) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {_plain(error)}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapper
