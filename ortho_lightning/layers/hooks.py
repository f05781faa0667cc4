"""Forward hooks that a copy of the module does not take along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # since torch 2.7


class ForwardHook:
    """Forward hook with keyword arguments, ``call(module, args, kwargs, output)``.

    A deep copy of the module, such as the teacher of an exponential moving average, and its pickle get
    :func:`idle_hook` instead: what the hook belongs to is not theirs. A run for ``torch.export`` or ``torch.jit.trace``
    is none of the model's own, and passes the hook by. ``torch.jit.script`` reads hooks as TorchScript, also those of a
    copy, so it works between batches only, when the hooks are not there.
    """

    def __init__(self, call: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]) -> None:
        self.call = call

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Call what the hook stands for."""
        if _is_exporting() or torch.jit.is_tracing():
            return None
        return self.call(module, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return idle_hook

    def __reduce__(self) -> Any:
        return _find_idle_hook, ()


def idle_hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    """Do nothing."""


def _find_idle_hook() -> Any:
    return idle_hook


def in_transform() -> bool:
    """Return whether a transform of ``torch.func`` runs, such as vmap; its tensors mean nothing outside of it."""
    return torch._C._are_functorch_transforms_active()  # what torch.autograd.Function itself asks


def in_backward() -> bool:
    """Return whether a backward pass is running, as in the recomputation of activation checkpointing."""
    return torch._C._current_graph_task_id() != -1  # what torch.utils.checkpoint itself asks
