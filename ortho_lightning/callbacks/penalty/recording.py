"""What the selected layers did during one training step."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import filter_counts, layer_filters, trains, weight_of_run
from ortho_lightning.layers.sampling import SampledInputs
from ortho_lightning.random import mix
from ortho_lightning.regularizers import Regularizer


@dataclass(frozen=True)
class Run:
    """One run of a layer that counts: what the hook kept of it."""

    node: Any
    """Where the run stands in the graph: the ``grad_fn`` of its output."""
    weight: Tensor | None
    """The weight of this run, where a later one would replace it."""
    observed: Tensor | SampledInputs | None
    """The sampled outputs, or the inputs to find them from; None for a regularizer of the filters."""


class LayerRecorder:
    """Forward hooks on the selected layers that keep, for each run that counts, what the regularizer looks at.

    A run counts if gradients are enabled and the layer's weight requires one at that moment, and if it is not the
    recomputation of activation checkpointing. The hooks only take rows, in a node that saves nothing, since under
    checkpointing what they saved would have to be saved again in the recomputation; the rest happens in :meth:`take`.

    Args:
        layers: the layers by name.
        regularizer: what looks at them.
    """

    def __init__(self, layers: dict[str, nn.Module], regularizer: Regularizer) -> None:
        self.layers = layers
        self.regularizer = regularizer
        self.seen: set[str] = set()
        """Names of the layers that ran in a training step, whether the run counted or not."""
        self.steps = 0
        """Training steps recorded so far."""
        self.open = False
        self._numbers = {name: zlib.crc32(name.encode()) for name in layers}  # the same in every process
        self._seed = 0
        self._runs: dict[str, list[Run]] = {}
        self._counted: Counter[str] = Counter()
        self._recomputed: Counter[str] = Counter()
        self._without_gradient: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self.persistent = False
        """Whether the hooks stay in place between steps."""
        self.ran = self._ran
        sampling.prepare()

    def persist(self) -> None:
        """Keep the hooks in place from now on, as a compiled model needs them: before its first call, and unchanged."""
        self.persistent = True
        # A graph break at each layer: traced, the seed's arithmetic becomes symbolic and never comes to an end.
        self.ran = torch.compiler.disable(self._ran)
        self._install()

    @contextlib.contextmanager
    def record(self, seed: int) -> Iterator[None]:
        """Record the runs inside the context. ``seed`` decides which rows are sampled."""
        self.discard()
        for memory in (self._counted, self._recomputed, self._without_gradient):
            memory.clear()
        self._seed = seed
        self.steps += 1
        self._install()
        self.open = True
        try:
            yield
        finally:
            self.open = False
            # hooks stay for the backward only where it may show reentrant checkpointing
            if not self._without_gradient:
                self.settle()

    def take(self, loss: Tensor | None = None) -> dict[str, list[Tensor]]:
        """By layer, for each run its outputs ``(groups, n, k)`` or its filters; runs are handed out once.

        Args:
            loss: only the runs in this loss's graph, leaving the others for the losses that they belong to; None: all.
        """
        if loss is None:
            taken, self._runs = self._runs, {}
        else:
            nodes = _graph(loss)
            taken = {name: [run for run in runs if run.node in nodes] for name, runs in self._runs.items()}
            self._runs = {name: [run for run in runs if run.node not in nodes] for name, runs in self._runs.items()}
        return {name: self._values(self.layers[name], runs) for name, runs in taken.items() if runs}

    @property
    def pending(self) -> bool:
        """Whether there are runs that :meth:`take` has not handed out."""
        return any(self._runs.values())

    def discard(self) -> None:
        """Forget the runs that were not taken."""
        self._runs = {}

    def settle(self) -> None:
        """The step and its backward are over: remove the hooks, unless they are persistent."""
        if not self.persistent:
            self._remove()

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
            self._handles.append(module.register_forward_hook(_Hook(self, name), with_kwargs=True))

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _ran(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Called by the hooks after each run of a selected layer; gives the output to hand on."""
        if _in_backward():
            self._recognize_reentrant_checkpointing(name)
            return output
        if not self.open:
            return output
        self.seen.add(name)
        if not trains(module):
            return output
        if not torch.is_grad_enabled():
            self._without_gradient.add(name)
            return output
        self._counted[name] += 1
        observed = None
        if self.regularizer.observes == "outputs":
            output, observed = self._observe(name, module, args, kwargs, output)
        self._runs.setdefault(name, []).append(Run(getattr(output, "grad_fn", None), weight_of_run(module), observed))
        return output

    def _recognize_reentrant_checkpointing(self, name: str) -> None:
        # its first pass runs without gradients and does not count, so there are more recomputations than counted runs
        if name in self._without_gradient and torch.is_grad_enabled():
            self._recomputed[name] += 1
            if self._recomputed[name] > self._counted[name]:
                raise UnsupportedLayerError(
                    name,
                    "it runs under reentrant activation checkpointing, whose first pass has no gradients to add a "
                    "penalty to; checkpoint with use_reentrant=False",
                )

    def _observe(
        self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> tuple[Tensor, Tensor | SampledInputs]:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedLayerError(name, f"its outputs are {kind}, not floating-point numbers")
        if hasattr(output, "full_tensor") or sampling.channels(module, output) != math.prod(filter_counts(module)):
            raise UnsupportedLayerError(
                name,
                f"its output of shape {tuple(output.shape)} is not that of all its filters, as under tensor "
                "parallelism; use a weight-based regularizer, such as Gram() or LSH(probe='exact')",
            )
        seed = self.layer_seed(name)
        if self.regularizer.detach_inputs:
            x = args[0] if args else kwargs["input"]
            return output, sampling.sample_inputs(module, x, output, self.regularizer.max_samples, seed)
        return sampling.tap(module, output, self.regularizer.max_samples, seed)

    def _values(self, module: nn.Module, runs: list[Run]) -> list[Tensor]:
        if self.regularizer.observes == "kernel":
            # runs of a layer share their filters, unless each has a weight of its own
            return [layer_filters(module, run.weight) for run in (runs if runs[0].weight is not None else runs[:1])]
        return [self._samples(module, run) for run in runs]

    @staticmethod
    def _samples(module: nn.Module, run: Run) -> Tensor:
        if isinstance(run.observed, SampledInputs):
            rows = sampling.outputs_from_inputs(module, run.observed, run.weight)
            return sampling.as_samples(module, rows, biased=False)
        assert run.observed is not None
        return sampling.as_samples(module, run.observed)


class _Hook:
    """A forward hook of one layer. A copy of the module, such as an EMA teacher, gets one that does nothing."""

    def __init__(self, recorder: LayerRecorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return self.recorder.ran(self.name, module, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _idle_hook

    def __reduce__(self) -> str:
        return "_idle_hook"


def _idle_hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    pass


def _graph(loss: Tensor) -> set[Any]:
    """All nodes of the loss's graph."""
    waiting: list[Any] = [loss.grad_fn]
    nodes: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return nodes


def _in_backward() -> bool:
    # what torch.utils.checkpoint itself asks to tell a recomputation
    return torch._C._current_graph_task_id() != -1
