"""Forward hooks on layers, which a copy of the module does not take along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ortho_lightning.layers.guards import HookGuards
from ortho_lightning.layers.parts import Part

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


class LayerHooks:
    """A forward hook on the module of each layer, while it is needed.

    In a compiled model hooks stay where they are, as its code would be compiled anew each time they come or go.

    Args:
        layers: the layers by name.
        hook: makes the hook of a layer from its name and itself.
    """

    def __init__(self, layers: Mapping[str, Part], hook: Callable[[str, Part], ForwardHook]) -> None:
        self._layers = layers
        self._hook = hook
        self._handles: list[RemovableHandle] = []
        self._persistent = False

    @property
    def persistent(self) -> bool:
        """Whether the hooks stay in place."""
        return self._persistent

    def persist(self) -> None:
        """Keep the hooks in place from now on, behind all that are there now: before compiled code's first call."""
        if not self._persistent:
            self.remove()
            HookGuards.hold()
            self._persistent = True
            self.install()

    def install(self) -> None:
        """Put the hooks in place if they are not."""
        if not self._handles:
            for name, part in self._layers.items():
                hook = self._hook(name, part)
                self._handles.append(part.module.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Remove the hooks, unless they stay."""
        if not self._persistent:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def close(self) -> None:
        """Remove the hooks in any case; safe to call twice."""
        if self._persistent:
            self._persistent = False
            HookGuards.release()
        self.remove()


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
