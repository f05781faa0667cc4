"""The package's errors, each with the value at fault and the remedy in its message."""

from __future__ import annotations

from collections.abc import Iterable


class OrthoLightningError(Exception):
    """Base class of every error that the package raises on purpose."""


class ConfigurationError(OrthoLightningError, ValueError):
    """An argument or a configuration that cannot work."""


class ArgumentTypeError(ConfigurationError, TypeError):
    """An argument of the wrong type, such as a tensor of integers."""


class LayerSelectionError(ConfigurationError):
    """A selection that matches no layer of the model.

    Args:
        selection: the option and its value.
        available: names of the layers that could be selected.
        suggestion: a pattern that was probably meant.
    """

    def __init__(self, selection: str, available: Iterable[str], suggestion: str | None = None) -> None:
        names = list(available)
        shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
        message = f"{selection} selects no layer."
        if suggestion is not None:
            message += f" Patterns are for whole names, from the top of the model: did you mean {suggestion!r}?"
        message += (
            f" The model's layers are: {shown}." if names else " The model has no layer with two or more filters."
        )
        super().__init__(message)


class UnsupportedLayerError(ConfigurationError, TypeError):
    """A layer that was asked for by name and has no filters to compare."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Layer {name!r}: {reason}. Leave it out with exclude={name!r}.")


class NotFittedError(ConfigurationError):
    """A whitening used before it was fitted."""


class DataError(OrthoLightningError, RuntimeError):
    """Data that is missing, truncated or of another shape; the message names the file."""
