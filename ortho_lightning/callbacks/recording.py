"""What the selected layers did during one training step."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ortho_lightning import kernels
from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.kernels import SampledInputs, mix
from ortho_lightning.regularizers import Regularizer


class LayerRecorder:
    """Forward hooks on the selected layers that keep, for each run that counts, what the regularizer looks at.

    A run counts if gradients are enabled and the layer's weight requires one at that moment, and if it is not the
    recomputation of activation checkpointing. The hooks take slices and copies only, since under checkpointing whatever
    they did would be part of what is recomputed; the rest happens in :meth:`take`.

    Args:
        layers: the layers by name.
        regularizer: what looks at them.
        persistent: keep the hooks in place between steps. A compiled model must have them before its first call.
    """

    def __init__(self, layers: dict[str, nn.Module], regularizer: Regularizer, persistent: bool) -> None:
        self.layers = layers
        self._numbers = {name: zlib.crc32(name.encode()) for name in layers}  # the same in every process
        self.regularizer = regularizer
        self.seen: set[str] = set()
        """Names of the layers that ran in a training step, whether the run counted or not."""
        self.open = False
        self._ran_without_gradient: set[str] = set()
        self._seed = 0
        self._runs: dict[str, list[Any]] = {}
        self._handles: list[RemovableHandle] = []
        self._persistent = persistent
        if persistent:
            self._install()

    @contextlib.contextmanager
    def record(self, seed: int) -> Iterator[None]:
        """Record the runs inside the context. ``seed`` decides which rows are sampled."""
        self._runs.clear()
        self._ran_without_gradient.clear()
        self._seed = seed
        self._install()
        self.open = True
        try:
            yield
        finally:
            self.open = False
            # hooks stay for the backward only where it may show reentrant checkpointing
            if not self._ran_without_gradient:
                self.settle()

    def take(self) -> dict[str, list[Tensor]]:
        """The runs since the last call: by layer, for each run its outputs ``(groups, n, k)`` or its filters."""
        runs, self._runs = self._runs, {}
        return {name: self._values(self.layers[name], kept) for name, kept in runs.items()}

    def settle(self) -> None:
        """The step and its backward are over: remove the hooks, unless they are persistent."""
        if not self._persistent:
            self._remove()

    @property
    def pending(self) -> bool:
        """Whether there are runs that :meth:`take` has not handed out."""
        return bool(self._runs)

    def discard(self) -> None:
        """Forget the runs that were not taken."""
        self._runs.clear()

    def close(self) -> None:
        """Remove the hooks and forget the runs; safe to call twice."""
        self._remove()
        self.discard()

    def layer_seed(self, name: str) -> int:
        """The seed of this step for one layer."""
        return mix(self._seed, self._numbers[name])

    def _install(self) -> None:
        if self._handles:
            return
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True))

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if _in_backward():
                if name in self._ran_without_gradient and torch.is_grad_enabled():
                    raise UnsupportedLayerError(name, _REENTRANT)
                return
            if not self.open:
                return
            self.seen.add(name)
            if not kernels.trains(module):
                return
            if torch.is_grad_enabled():
                self._runs.setdefault(name, []).append(self._keep(name, module, args, kwargs, output))
            else:
                self._ran_without_gradient.add(name)

        return hook

    def _keep(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if self.regularizer.observes == "kernel":
            return None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedLayerError(name, f"its outputs are {kind}, not floating-point numbers")
        seed = self.layer_seed(name)
        if self.regularizer.detach_inputs:
            x = args[0] if args else kwargs["input"]
            return kernels.sample_inputs(module, x, output, self.regularizer.max_samples, seed)
        return kernels.sample_outputs(module, output, self.regularizer.max_samples, seed)

    def _values(self, module: nn.Module, kept: list[Any]) -> list[Tensor]:
        if self.regularizer.observes == "kernel":
            return [kernels.filters(module)]  # several runs of a layer have the same filters
        return [self._samples(module, run) for run in kept]

    @staticmethod
    def _samples(module: nn.Module, run: Tensor | SampledInputs) -> Tensor:
        if isinstance(run, SampledInputs):
            return kernels.as_samples(module, kernels.outputs_from_inputs(module, run), biased=False)
        return kernels.as_samples(module, run)


_REENTRANT = (
    "it runs under reentrant activation checkpointing, whose first pass has no gradients to add a penalty to; "
    "checkpoint with use_reentrant=False"
)


def _in_backward() -> bool:
    # what torch.utils.checkpoint itself asks to tell a recomputation
    return torch._C._current_graph_task_id() != -1
