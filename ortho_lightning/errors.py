"""The package's errors, each with the value at fault and the remedy in its message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class OrthoLightningError(Exception):
    """Base class of every error that the package raises on purpose."""


class ConfigurationError(OrthoLightningError, ValueError):
    """An invalid argument or configuration."""


class ArgumentTypeError(ConfigurationError, TypeError):
    """An argument of the wrong type, such as a tensor of integers."""


class LayerSelectionError(ConfigurationError):
    """A selection that matches no layer of the model.

    Args:
        selection: the option and its value.
        available: names of the layers that could be selected.
        suggestion: a pattern that was probably meant.
        reason: why nothing was selected, in whole sentences.
        by_name: names of further layers, which are selected only if a pattern names them.
    """

    def __init__(
        self,
        selection: str,
        available: Iterable[str],
        suggestion: str | None = None,
        reason: str = "",
        by_name: Iterable[str] = (),
    ) -> None:
        usual, further = list(available), list(by_name)
        sentences = [f"{selection} selects no layer.", reason]
        if suggestion is not None:
            sentences.append(f"Patterns are for whole names, from the top of the model: did you mean {suggestion!r}?")
        if usual:
            sentences.append(f"The model's layers are: {listed(usual, 40)}.")
        if further:
            sentences.append(f"Layers that a pattern must name are: {listed(further, 12)}.")
        if not usual and not further:
            sentences.append("The model has no layer with two or more filters.")
        super().__init__(" ".join(filter(None, sentences)))


def listed(names: Sequence[str], most: int) -> str:
    """Return names for a message, at most so many of them and then their number."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


class UnsupportedLayerError(ConfigurationError, TypeError):
    """A layer that was selected by name and has no filters to compare."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Layer {name!r}: {reason}. Leave it out with exclude={name!r}.")


class NotFittedError(ConfigurationError):
    """A whitening used before it was fitted."""


class DataError(OrthoLightningError, RuntimeError):
    """Data that is missing, truncated or of another shape; the message names the file."""
