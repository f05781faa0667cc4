"""The record of what the selected layers did during one training step."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lightning.callbacks.penalty.memory import PenaltyMemory
from ortho_lightning.callbacks.penalty.runs import Run, graph_of, nodes_of, sample, sampled_node
from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.layers.filters import Layer, trains, weight_of_run
from ortho_lightning.layers.hooks import ForwardHook, LayerHooks, in_backward, in_transform
from ortho_lightning.layers.parts import Part, part_of
from ortho_lightning.layers.sampling import Sampling, Taken
from ortho_lightning.layers.tracing import CompiledRuns
from ortho_lightning.random import mix, number


class LayerRecorder:
    """Forward hooks on the selected layers that record each run that counts.

    A part of a module runs with its module, although the layers inside that hold its weight may never be called. A run
    counts if gradients are enabled and the layer's weight requires one at that moment, and if it is not the
    recomputation of activation checkpointing. The hooks only take samples, in a node that saves nothing, since under
    checkpointing what they saved would have to be saved again in the recomputation; the rest happens after the step,
    in the :class:`~ortho_lightning.regularizers.LayerView` of the run.

    Args:
        layers: the layers by name.
        sampling: how outputs are sampled; None: outputs are not recorded.
        memory: what penalties keep from step to step; None: a new one.
    """

    def __init__(
        self, layers: Mapping[str, Layer], sampling: Sampling | None, memory: PenaltyMemory | None = None
    ) -> None:
        self.layers = {name: part_of(layer) for name, layer in layers.items()}
        self.sampling = sampling
        self.memory = PenaltyMemory() if memory is None else memory
        self.seen: set[str] = set()
        """Names of the layers that ran in a training step, whether the run counted or not."""
        self.unreached: set[str] = set()
        """Names of the layers that have runs that count, of which no loss has depended on one so far."""
        self.frozen: set[str] = set()
        """Names of the layers that ran, but never with a weight that required a gradient so far."""
        self.steps = 0
        """Training steps recorded so far."""
        self.open = False
        self._numbers = {name: number(name) for name in layers}
        self._seed = 0
        self._runs: list[Run] = []
        self._reached: set[str] = set()
        self._compiled = CompiledRuns(self.layers, sampling)
        self._counted: Counter[str] = Counter()
        self._ever_counted: set[str] = set()
        self._recomputed: Counter[str] = Counter()
        self._without_gradient: set[str] = set()
        self._hooks = LayerHooks(self.layers, self._hook)

    @property
    def persistent(self) -> bool:
        """Whether the hooks stay in place between steps."""
        return self._hooks.persistent

    def persist(self) -> None:
        """Keep the hooks in place from now on, as a compiled model needs them: before its first call, and unchanged."""
        self._hooks.persist()

    @contextlib.contextmanager
    def record(self, seed: int) -> Iterator[None]:
        """Record the runs inside the context. ``seed`` decides at which positions outputs are sampled."""
        self.discard()
        for memory in (self._counted, self._recomputed, self._without_gradient):
            memory.clear()
        self._seed = seed
        if self.persistent:
            self._compiled.begin({name: self._seed_of(name) for name in self.layers})
        self.steps += 1
        self._hooks.install()
        self.open = True
        try:
            yield
        finally:
            self.open = False
            self._compiled.open = False
            self._collect_compiled()
            # hooks stay for the backward only where it may show reentrant checkpointing
            if not self._without_gradient:
                self.settle()

    def take(self, loss: Tensor) -> list[Run]:
        """Return the recorded runs in the loss's graph, in order; each is returned once.

        The others are left for the losses that they belong to, or belong to none: the graph of a run for an adversarial
        example or a saliency map is used up by a backward of its own. A run without nodes counts with the first loss.
        """
        self._collect_compiled()
        graph = graph_of(loss) if self._runs else set()
        taken: list[Run] = []
        left: list[Run] = []
        for run in self._runs:
            (left if graph.isdisjoint(run.nodes) and run.nodes else taken).append(run)
        self._runs = left
        self._reached.update(run.name for run in taken)
        self.unreached -= self._reached
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
        self._hooks.remove()

    def close(self) -> None:
        """Remove the hooks and forget the runs; safe to call twice."""
        self._hooks.close()
        self.discard()

    def _hook(self, name: str, part: Part) -> ForwardHook:
        def ran(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if torch.compiler.is_compiling():
                self._compiled.ran(name, part, args, kwargs, output)
                return output
            return self._record_run(name, part, args, kwargs, output)

        return ForwardHook(ran)

    def _record_run(self, name: str, part: Part, args: Any, kwargs: Any, output: Any) -> Any:
        """Record a run of a selected layer; called by its hook. Return the output to hand on."""
        if in_backward():
            self._recognize_reentrant_checkpointing(name)
            return output
        if not self.open:
            return output
        if self.sampling is not None and in_transform():
            return output
        self.seen.add(name)
        if not (trains(part) or self._goes_on(part, output)):
            self._note_frozen(name)
            return output
        if not torch.is_grad_enabled():
            self._without_gradient.add(name)
            return output
        self._note_counted(name)
        outputs = None
        if self.sampling is not None:
            output, outputs = sample(name, part, args, kwargs, output, self.sampling, self._seed_of(name))
        self._keep(name, part, nodes_of(output), outputs)
        return output

    def _collect_compiled(self) -> None:
        """Keep the runs of compiled code that count."""
        for name, taken in self._compiled.collect() if self.persistent else ():
            self.seen.add(name)
            part = self.layers[name]
            if not (trains(part) or part.kernel is None):
                self._note_frozen(name)
                continue
            if not torch.is_grad_enabled():
                continue
            self._note_counted(name)
            for outputs in taken:
                if not isinstance(outputs, Tensor) or outputs.grad_fn is not None:
                    self._keep(name, part, tuple(map(sampled_node, nodes_of(outputs))), outputs)

    def _keep(self, name: str, part: Part, nodes: tuple[Any, ...], outputs: Taken | None) -> None:
        if name not in self._reached:
            self.unreached.add(name)
        seed, memory = self._seed_of(name), self.memory.of(name)
        self._runs.append(Run(name, part, nodes, weight_of_run(part), outputs, seed, memory))

    def _note_frozen(self, name: str) -> None:
        if name not in self._ever_counted:
            self.frozen.add(name)

    def _note_counted(self, name: str) -> None:
        self._counted[name] += 1
        self._ever_counted.add(name)
        self.frozen.discard(name)

    def _seed_of(self, name: str) -> int:
        return mix(self._seed, self._numbers[name])

    @staticmethod
    def _goes_on(part: Part, output: Any) -> bool:
        """Return whether a penalty on the outputs of a module without weights trains the layers below it."""
        return part.kernel is None and bool(nodes_of(output))

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
