"""The adapter of each kind of logger; open to kinds of your own."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from ortho_lightning.callbacks.monitoring.adapters.base import Adapter
from ortho_lightning.callbacks.monitoring.adapters.mlflow import MLflow
from ortho_lightning.callbacks.monitoring.adapters.tensorboard import TensorBoard
from ortho_lightning.callbacks.monitoring.adapters.wandb import WeightsAndBiases
from ortho_lightning.errors import ArgumentTypeError, ConfigurationError

A = TypeVar("A", bound=type[Adapter])

_ADAPTERS: list[type[Adapter]] = [WeightsAndBiases, MLflow, TensorBoard, Adapter]  # the last serves any logger


def register(adapter: A) -> A:
    """Use an adapter of your own for the loggers that it serves, before those of the package; a class decorator.

    A class of the same module and name takes the place of the one registered before, as when a cell of a notebook runs
    again.

    Args:
        adapter: a subclass of :class:`Adapter` with a ``serves`` of its own.

    Returns:
        The class.

    Raises:
        ArgumentTypeError: for anything but a subclass of :class:`Adapter`.
        ConfigurationError: for a class without a ``serves`` of its own, which would get the loggers of every kind, or
            with one that needs an instance; for ``takes_pictures`` without a method ``picture``.

    Example:
        >>> class Diary:
        ...     '''A logger of your own, with the methods of Lightning's ``Logger``.'''
        >>> @register
        ... class DiaryAdapter(Adapter):
        ...     @staticmethod
        ...     def serves(logger):
        ...         return type(logger).__name__ == "Diary"
        ...
        ...     def text(self, tag, markdown, step):
        ...         self.logger.write(step, tag, markdown)
        >>> type(adapter_for(Diary())).__name__
        'DiaryAdapter'
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise ArgumentTypeError(f"register({adapter!r}): must be a subclass of Adapter")
    if adapter.serves is Adapter.serves:
        raise ConfigurationError(
            f"register({adapter.__name__}): it needs a static method serves(logger) of its own, which returns whether "
            "the logger is of its kind"
        )
    if not isinstance(inspect.getattr_static(adapter, "serves"), staticmethod | classmethod):
        raise ConfigurationError(
            f"register({adapter.__name__}): serves(logger) is called on the class: write @staticmethod above it"
        )
    if adapter.takes_pictures and adapter.picture is Adapter.picture:
        raise ConfigurationError(
            f"register({adapter.__name__}): with takes_pictures = True it needs a method picture(tag, pixels, step)"
        )
    names = (adapter.__module__, adapter.__qualname__)
    _ADAPTERS[:] = [known for known in _ADAPTERS if (known.__module__, known.__qualname__) != names]
    _ADAPTERS.insert(0, adapter)
    return adapter


def adapter_for(logger: Any) -> Adapter:
    """Return the adapter of the logger's kind, or the one that any logger can have."""
    return next(adapter for adapter in _ADAPTERS if adapter.serves(logger))(logger)
