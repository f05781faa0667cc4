"""Checks of the arguments that the callbacks share."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ortho_lightning.errors import ConfigurationError

Kind = Literal["filter", "response"]


def check_interval(option: str, value: Any, never: bool = True) -> None:
    """Raise ConfigurationError unless it is an integer of 1 or more, or None where None means never."""
    if value is None and never:
        return
    if not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option}={value!r}: must be an integer of 1 or more")


def check_kinds(kinds: Any) -> None:
    """Raise ConfigurationError unless it lists kinds of angles, each once."""
    known = get_args(Kind)
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(known) or len(set(kinds)) != len(kinds):
        raise ConfigurationError(f"kinds={kinds!r}: must list one or both of {known}")


def check_name(name: Any) -> None:
    """Raise ConfigurationError unless it is a word without "/"."""
    if not isinstance(name, str) or not name or "/" in name:
        raise ConfigurationError(f"name={name!r}: must be a word without '/'")
