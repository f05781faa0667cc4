"""A forward hook that copies and pickles of the module do not keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class ForwardHook:
    """A forward hook with keyword arguments, ``call(module, args, kwargs, output)``.

    A copy of the module, such as an EMA teacher, gets a hook that does nothing.
    """

    def __init__(self, call: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]) -> None:
        self._call = call

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Call the function."""
        return self._call(module, args, kwargs, output)

    def __reduce__(self) -> Any:  # deepcopy uses it too
        return _IdleHook, ()


class _IdleHook:
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        pass
