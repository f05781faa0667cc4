"""Standing between Trainer and LightningModule while ``fit`` runs, and leaving no trace.

``training_step`` and ``manual_backward`` are replaced on the instance (Lightning looks them up there, inside DDP's
forward). Several callbacks share one replacement, so that they can come and go in any order.
"""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, Protocol

from torch import nn

_METHODS = ("training_step", "manual_backward")


class Interceptor(Protocol):
    """What a callback does around the two methods: ``call`` is the method, or the next interceptor before it."""

    def around_training_step(self, module: Any, call: Any, *args: Any, **kwargs: Any) -> Any: ...

    def around_manual_backward(self, module: Any, call: Any, *args: Any, **kwargs: Any) -> Any: ...


def attach(module: nn.Module, interceptor: Interceptor) -> None:
    """Let ``interceptor`` stand around the module's methods; attaching twice is attaching once."""
    for name in _METHODS:
        current = module.__dict__.get(name)
        if not isinstance(current, _Intercepted):
            current = _Intercepted(module, name)
            setattr(module, name, current)
        if interceptor not in current.interceptors:
            current.interceptors.append(interceptor)


def detach(module: nn.Module, interceptor: Interceptor) -> None:
    """Undo :func:`attach`; with the last interceptor the module's own attributes come back."""
    for name in _METHODS:
        current = module.__dict__.get(name)
        if not isinstance(current, _Intercepted):
            continue
        if interceptor in current.interceptors:
            current.interceptors.remove(interceptor)
        if not current.interceptors:
            if current.was_instance_attribute:  # compiled modules have one
                setattr(module, name, current.original)
            else:
                delattr(module, name)


class _Intercepted:
    """A method of one module with interceptors around it; wraps it so that Lightning reads the true signature."""

    def __init__(self, module: nn.Module, name: str) -> None:
        original = getattr(module, name)
        functools.update_wrapper(self, original)
        self.module = module
        self.name = name
        self.original = original
        self.was_instance_attribute = name in module.__dict__
        self.interceptors: list[Interceptor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original
        for interceptor in list(self.interceptors):
            call = functools.partial(getattr(interceptor, f"around_{self.name}"), self.module, call)
        try:
            return call(*args, **kwargs)
        except BaseException:
            # An error in the step ends fit, and another callback's error in on_exception could keep ours from hearing
            # of it. (An error in manual_backward may be caught by the step.)
            if self.name == "training_step":
                for interceptor in list(self.interceptors):
                    detach(self.module, interceptor)
            raise

    # A module that is copied or pickled while it trains (an EMA teacher, say) takes its own method along, not this.

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.was_instance_attribute:
            return copy.deepcopy(self.original, memo)
        return types.MethodType(getattr(type(self.module), self.name), copy.deepcopy(self.module, memo))

    def __reduce__(self) -> Any:
        if self.was_instance_attribute:
            return copy.copy, (self.original,)
        return types.MethodType, (getattr(type(self.module), self.name), self.module)
