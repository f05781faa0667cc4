"""A forward hook that copies and pickles of the module do not keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class ForwardHook:
    """Call a function with each output of a module.

    A copy of the module, such as an EMA teacher, gets a hook that does nothing.

    Args:
        function: receives the output.
    """

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Call the function with the output."""
        self._function(output)

    def __reduce__(self) -> Any:  # deepcopy uses it too
        return _IdleHook, ()


class _IdleHook:
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        pass
