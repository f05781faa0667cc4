"""The record of what the selected layers did during one training step."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ortho_lightning.callbacks.penalty.memory import PenaltyMemory
from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import layer_filters, trains, weight_of_run
from ortho_lightning.layers.hooks import ForwardHook, in_backward, in_transform
from ortho_lightning.layers.sampling import SampledInputs, Sampling
from ortho_lightning.random import mix, number
from ortho_lightning.regularizers import LayerView

Outputs = Tensor | SampledInputs
"""Sampled outputs as a hook leaves them: the outputs themselves, or the inputs to compute them from."""


@dataclass(frozen=True)
class Run:
    """One run of a layer that counts, as its hook kept it."""

    name: str
    module: nn.Module
    node: Any
    """A node of the run in the graph of every loss that depends on its output; None where that is not known."""
    weight: Tensor | None
    """The weight of this run, where a later run would replace it."""
    outputs: Outputs | None
    seed: int
    memory: dict[str, Tensor]

    def view(self) -> LayerView:
        """Return the run as a regularizer sees it; filters and outputs are computed when they are asked for."""
        return LayerView(
            filters=lambda: layer_filters(self.module, self.weight),
            outputs=None if self.outputs is None else self._samples,
            name=self.name,
            module=self.module,
            seed=self.seed,
            memory=self.memory,
        )

    def _samples(self) -> Tensor:
        if isinstance(self.outputs, SampledInputs):
            outputs = sampling.outputs_from_inputs(self.module, self.outputs, self.weight)
            return sampling.as_samples(self.module, outputs, biased=False)
        assert self.outputs is not None
        return sampling.as_samples(self.module, self.outputs)


class LayerRecorder:
    """Forward hooks on the selected layers that record each run that counts.

    A run counts if gradients are enabled and the layer's weight requires one at that moment, and if it is not the
    recomputation of activation checkpointing. The hooks only take samples, in a node that saves nothing, since under
    checkpointing what they saved would have to be saved again in the recomputation; the rest happens after the step,
    in the :class:`~ortho_lightning.regularizers.LayerView` of the run.

    Args:
        layers: the layers by name.
        sampling: how outputs are sampled; None: outputs are not recorded.
        memory: what penalties keep from step to step; None: a new one.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], sampling: Sampling | None, memory: PenaltyMemory | None = None
    ) -> None:
        self.layers = layers
        self.sampling = sampling
        self.memory = PenaltyMemory() if memory is None else memory
        self.seen: set[str] = set()
        """Names of the layers that ran in a training step, whether the run counted or not."""
        self.steps = 0
        """Training steps recorded so far."""
        self.open = False
        self.persistent = False
        """Whether the hooks stay in place between steps."""
        self._numbers = {name: number(name) for name in layers}
        self._seed = 0
        self._runs: list[Run] = []
        self._counted: Counter[str] = Counter()
        self._recomputed: Counter[str] = Counter()
        self._without_gradient: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def persist(self) -> None:
        """Keep the hooks in place from now on, as a compiled model needs them: before its first call, and unchanged."""
        if self.persistent:
            return
        self.persistent = True
        self._remove()
        self._install()

    @contextlib.contextmanager
    def record(self, seed: int) -> Iterator[None]:
        """Record the runs inside the context. ``seed`` decides at which positions outputs are sampled."""
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

    def take(self, loss: Tensor) -> list[Run]:
        """Return the recorded runs in the loss's graph, in order; each is returned once.

        The others are left for the losses that they belong to, or belong to none: the graph of a run for an adversarial
        example or a saliency map is used up by a backward of its own. A run without a node counts with the first loss.
        """
        nodes = _graph(loss) if self._runs else set()
        taken = [run for run in self._runs if run.node is None or run.node in nodes]
        self._runs = [run for run in self._runs if not (run.node is None or run.node in nodes)]
        return taken

    @property
    def pending(self) -> bool:
        """Whether there are runs that :meth:`take` has not returned."""
        return bool(self._runs)

    def discard(self) -> None:
        """Forget the runs that were not taken."""
        self._runs = []

    def settle(self) -> None:
        """Remove the hooks, unless they are persistent: the step and its backward are over."""
        if not self.persistent:
            self._remove()

    def close(self) -> None:
        """Remove the hooks and forget the runs; safe to call twice."""
        self._remove()
        self.discard()

    def _install(self) -> None:
        if self._handles:
            return
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_hook(self._hook(name), with_kwargs=True))

    def _hook(self, name: str) -> ForwardHook:
        # A graph break at each layer: traced, the seed's arithmetic becomes symbolic and never comes to an end.
        record: Any = torch.compiler.disable(self._record_run) if self.persistent else self._record_run

        def ran(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return record(name, module, args, kwargs, output)

        return ForwardHook(ran)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _record_run(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Record a run of a selected layer; called by its hook. Return the output to hand on."""
        if in_backward():
            self._recognize_reentrant_checkpointing(name)
            return output
        if not self.open:
            return output
        if self.sampling is not None and in_transform():
            return output
        self.seen.add(name)
        if not trains(module):
            return output
        if not torch.is_grad_enabled():
            self._without_gradient.add(name)
            return output
        self._counted[name] += 1
        seed = mix(self._seed, self._numbers[name])
        outputs = None
        if self.sampling is not None:
            output, outputs = sample(name, module, args, kwargs, output, self.sampling, seed)
        self._runs.append(Run(name, module, _node(output), weight_of_run(module), outputs, seed, self.memory.of(name)))
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


def sample(
    name: str, module: nn.Module, args: Any, kwargs: Any, output: Any, options: Sampling, seed: int
) -> tuple[Tensor, Outputs]:
    """Return the output to hand on, and the sampled outputs of a run.

    Raises:
        UnsupportedLayerError: for outputs that are not those of all the layer's filters.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedLayerError(name, f"its outputs are {kind}, not floating-point numbers")
    if not sampling.covers_all_filters(module, output):
        raise UnsupportedLayerError(
            name,
            f"its output of shape {tuple(output.shape)} is not that of all its filters, as under tensor "
            "parallelism; use a weight-based regularizer, such as Gram() or LSH(probe='exact')",
        )
    if options.detach_inputs:
        x = args[0] if args else kwargs["input"]
        return output, sampling.sample_inputs(module, x, output, options.max_samples, seed)
    return sampling.tap(module, output, options.max_samples, seed)


def _node(output: Any) -> Any:
    if in_transform():  # its nodes are those of the transform's own graph
        return None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((node for node in map(_node, output) if node is not None), None)
    if not isinstance(output, Tensor):
        return None
    if output._base is not None and output._base.grad_fn is not None:
        return output._base.grad_fn  # a change in place gives a view another node, and keeps that of its base
    return output.grad_fn


def _graph(loss: Tensor) -> set[Any]:
    """Return all nodes of the loss's graph."""
    waiting: list[Any] = [loss.grad_fn]
    nodes: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return nodes
