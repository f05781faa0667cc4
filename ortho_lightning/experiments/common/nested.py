"""Nested configurations as flat ones."""

from __future__ import annotations

from typing import Any


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names.

    Example:
        >>> flat({"data": {"seed": 3, "root": "x"}})
        {'data.seed': 3, 'data.root': 'x'}
    """
    if not isinstance(config, dict):
        return {prefix.removesuffix("."): config}
    return {key: value for name, part in config.items() for key, value in flat(part, f"{prefix}{name}.").items()}
