"""Checks of the arguments that the callbacks share."""

from __future__ import annotations

from typing import Any

from ortho_lightning.errors import ConfigurationError


def check_interval(option: str, value: Any, never: bool = True) -> None:
    """Raise ConfigurationError unless it is an integer of 1 or more, or None where None means never."""
    if value is None and never:
        return
    if not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option}={value!r}: must be an integer of 1 or more")


def check_name(name: Any) -> None:
    """Raise ConfigurationError unless it is a word without "/"."""
    if not isinstance(name, str) or not name or "/" in name:
        raise ConfigurationError(f"name={name!r}: must be a word without '/'")
