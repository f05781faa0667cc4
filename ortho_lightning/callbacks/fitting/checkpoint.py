"""The whitening in a checkpoint."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch

from ortho_lightning.errors import DataError
from ortho_lightning.nn import Whitening

_CALLBACK = "WhiteningCallback"


def state_key(name: str) -> str:
    """Return the key of a WhiteningCallback's state in a checkpoint."""
    return f"{_CALLBACK}{ {'name': name}!r}"


def load_whitening(path: str | os.PathLike[str], name: str, weights_only: bool) -> Whitening:
    """Read a whitening from a checkpoint, onto the CPU.

    Args:
        path: a file that a Trainer with a WhiteningCallback wrote.
        name: that of the callback.
        weights_only: read tensors and plain values only.

    Raises:
        DataError: for a file that cannot be read, or holds no whitening of that name, naming it.
    """
    checkpoint = _read(path, weights_only)
    states = checkpoint.get("callbacks", {}) if isinstance(checkpoint, dict) else {}
    stored = states.get(state_key(name), {}).get("whitening")
    if stored is None:
        held = [key for key in states if key.startswith(_CALLBACK) and states[key]]
        raise DataError(
            f"{path} holds no fitted whitening of a WhiteningCallback named {name!r}. "
            + (f"It holds {held}." if held else "It was saved before an epoch of the callback's stage was over.")
        )
    return Whitening.from_state(stored, str(path))


def _read(path: str | os.PathLike[str], weights_only: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except (OSError, EOFError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {error}") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is damaged, or holds more than tensors and plain values; if you trust it, "
            f"load it with weights_only=False ({str(error).splitlines()[0]})"
        ) from error
