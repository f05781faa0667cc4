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
from ortho_lightning.layers.filters import Layer, RunWeights, layer_filters, trains, weight_of_run
from ortho_lightning.layers.hooks import ForwardHook, in_backward, in_transform
from ortho_lightning.layers.parts import Part, part_of
from ortho_lightning.layers.sampling import SampledInputs, Sampling
from ortho_lightning.random import mix, number
from ortho_lightning.regularizers import LayerView

Outputs = Tensor | SampledInputs
"""Sampled outputs as a hook leaves them: the outputs themselves, or the inputs to compute them from."""


@dataclass(frozen=True)
class Run:
    """One run of a layer that counts, as its hook kept it."""

    name: str
    part: Part
    nodes: tuple[Any, ...]
    """Nodes of the run, of which one is in the graph of every loss that depends on its output; empty if not known."""
    weight: RunWeights | None
    """The weights of this run, where a later run would replace one."""
    outputs: Outputs | None
    seed: int
    memory: dict[str, Tensor]

    def view(self) -> LayerView:
        """Return the run as a regularizer sees it; filters and outputs are computed when they are asked for."""
        return LayerView(
            filters=None if self.part.kernel is None else lambda: layer_filters(self.part, self.weight),
            outputs=None if self.outputs is None else self._samples,
            name=self.name,
            module=self.part.module,
            seed=self.seed,
            memory=self.memory,
        )

    def _samples(self) -> Tensor:
        if isinstance(self.outputs, SampledInputs):
            outputs = sampling.outputs_from_inputs(self.part, self.outputs, self.weight)
            return sampling.as_samples(self.part, outputs, biased=False)
        assert self.outputs is not None
        return sampling.as_samples(self.part, self.outputs)


class _Trace:
    """Trace that a layer leaves when it runs in compiled code: that it ran, and the samples of each run."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.ran = False
        self.taken: tuple[Outputs, ...] = ()


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
        self.steps = 0
        """Training steps recorded so far."""
        self.open = False
        self.persistent = False
        """Whether the hooks stay in place between steps."""
        self._numbers = {name: number(name) for name in layers}
        self._seed = 0
        self._runs: list[Run] = []
        self._reached: set[str] = set()
        self._traces = {name: _Trace() for name in layers}
        # what moves the samples of each layer, in compiled code a tensor that is written anew in each step
        self._draws = {name: torch.zeros(2, dtype=torch.int64) for name in layers}
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
        self._begin_traces()
        self.steps += 1
        self._install()
        self.open = True
        try:
            yield
        finally:
            self.open = False
            self._collect_traces()
            # hooks stay for the backward only where it may show reentrant checkpointing
            if not self._without_gradient:
                self.settle()

    def take(self, loss: Tensor) -> list[Run]:
        """Return the recorded runs in the loss's graph, in order; each is returned once.

        The others are left for the losses that they belong to, or belong to none: the graph of a run for an adversarial
        example or a saliency map is used up by a backward of its own. A run without nodes counts with the first loss.
        """
        self._collect_traces()
        graph = _graph(loss) if self._runs else set()
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
        if not self.persistent:
            self._remove()

    def close(self) -> None:
        """Remove the hooks and forget the runs; safe to call twice."""
        self._remove()
        self.discard()

    def _install(self) -> None:
        if self._handles:
            return
        for name, part in self.layers.items():
            self._handles.append(part.module.register_forward_hook(self._hook(name, part), with_kwargs=True))

    def _hook(self, name: str, part: Part) -> ForwardHook:
        def ran(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if torch.compiler.is_compiling():
                return self._trace_run(name, part, args, kwargs, output)
            return self._record_run(name, part, args, kwargs, output)

        return ForwardHook(ran)

    # Compiled code keeps what its first call did, so in it a hook takes samples at positions that it reads from a
    # tensor, leaves them on an object of the layer, and does nothing else; the rest happens after the code has run.

    def _begin_traces(self) -> None:
        if not self.persistent:
            return
        for name, part in self.layers.items():
            self._traces[name].clear()
            if self.sampling is not None:
                draws = torch.tensor(sampling.draws_of(mix(self._seed, self._numbers[name])))
                weight = next(iter(part.module.parameters()), None)
                device = draws.device if weight is None else weight.device
                if self._draws[name].device != device:
                    self._draws[name] = self._draws[name].to(device)
                self._draws[name].copy_(draws, non_blocking=True)

    def _trace_run(self, name: str, part: Part, args: Any, kwargs: Any, output: Any) -> Any:
        """Record a run within compiled code. Return the output to hand on."""
        if not self.open:
            return output
        trace = self._traces[name]
        trace.ran = True
        if self.sampling is None or not torch.is_grad_enabled():
            return output
        own = sampling.element_of(part, output)
        if isinstance(own, Tensor) and own.is_floating_point():
            if self.sampling.detach_inputs:
                x = args[0] if args else next(iter(kwargs.values()))
                taken: Outputs = sampling.sample_inputs(part, x, own, self.sampling.max_samples, self._draws[name])
            else:
                taken = sampling.sample_outputs(part, own, self.sampling.max_samples, self._draws[name])
            trace.taken = (*trace.taken, taken)
        return output

    def _collect_traces(self) -> None:
        """Turn what compiled code has left into runs."""
        for name, trace in self._traces.items() if self.persistent else ():
            if not trace.ran:
                continue
            taken = trace.taken
            trace.clear()
            part = self.layers[name]
            self.seen.add(name)
            if not (trains(part) or part.kernel is None) or not torch.is_grad_enabled():
                continue
            self._counted[name] += 1
            self._note_unreached(name)
            seed = mix(self._seed, self._numbers[name])
            for outputs in taken if self.sampling is not None else (None,):
                if isinstance(outputs, Tensor) and outputs.grad_fn is None:
                    continue
                nodes = tuple(map(_sampled_node, _nodes(outputs)))
                run = Run(name, part, nodes, weight_of_run(part), outputs, seed, self.memory.of(name))
                self._runs.append(run)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

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
            return output
        if not torch.is_grad_enabled():
            self._without_gradient.add(name)
            return output
        self._counted[name] += 1
        seed = mix(self._seed, self._numbers[name])
        outputs = None
        if self.sampling is not None:
            output, outputs = sample(name, part, args, kwargs, output, self.sampling, seed)
        self._note_unreached(name)
        memory = self.memory.of(name)
        self._runs.append(Run(name, part, _nodes(output), weight_of_run(part), outputs, seed, memory))
        return output

    def _note_unreached(self, name: str) -> None:
        if name not in self._reached:
            self.unreached.add(name)

    @staticmethod
    def _goes_on(part: Part, output: Any) -> bool:
        """Return whether a penalty on the outputs of a module without weights trains the layers below it."""
        return part.kernel is None and bool(_nodes(output))

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
    name: str, part: Part, args: Any, kwargs: Any, output: Any, options: Sampling, seed: int
) -> tuple[Any, Outputs]:
    """Return the output to hand on, and the sampled outputs of a run.

    Raises:
        UnsupportedLayerError: for outputs that are not those of all the layer's filters.
    """
    own = _own_output(name, part, output)
    if options.detach_inputs:
        if not sampling.can_compute_again(part):
            raise UnsupportedLayerError(
                name,
                f"detach_inputs=True computes outputs again from the layer's inputs, which is not known how for "
                f"{part.kind}; leave detach_inputs=False",
            )
        x = args[0] if args else next(iter(kwargs.values()))
        return output, sampling.sample_inputs(part, x, own, options.max_samples, seed)
    if own is output:
        return sampling.tap(part, output, options.max_samples, seed)
    return output, sampling.sample_outputs(part, own, options.max_samples, seed)


def _own_output(name: str, part: Part, output: Any) -> Tensor:
    """Return the tensor in the output of a module that is the layer's."""
    own = sampling.element_of(part, output)
    if not isinstance(own, Tensor):
        raise UnsupportedLayerError(
            name,
            f"its outputs are {_described(output)}, not a tensor of floating-point numbers; say which of them is meant "
            "with OutputsOf(pattern, element=...)",
        )
    if not own.is_floating_point():
        raise UnsupportedLayerError(name, f"its outputs are {own.dtype}, not floating-point numbers")
    if not sampling.covers_all_filters(part, own):
        raise UnsupportedLayerError(
            name,
            f"its output of shape {tuple(own.shape)} is not that of all its filters, as under tensor "
            "parallelism; use a weight-based regularizer, such as Gram() or LSH(probe='exact')",
        )
    return own


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(map(repr, output))}"
    return f"{kind} of {len(output)}" if isinstance(output, list | tuple) else kind


def _nodes(output: Any) -> tuple[Any, ...]:
    if in_transform():  # its nodes are those of the transform's own graph
        return ()
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return tuple(node for each in output for node in _nodes(each))
    if not isinstance(output, Tensor):
        return ()
    node = output.grad_fn
    if output._base is not None and output._base.grad_fn is not None:
        node = output._base.grad_fn  # a change in place gives a view another node, and keeps that of its base
    return () if node is None else (node,)


_TAKING = ("Index", "Clone", "View", "UnsafeView", "ReshapeAlias", "Permute", "Unsqueeze")


def _sampled_node(node: Any) -> Any:
    """Return the node of the output that samples were taken from: compilers without a backward of their own keep it."""
    while node.name().partition("Backward")[0] in _TAKING and node.next_functions and node.next_functions[0][0]:
        node = node.next_functions[0][0]
    return node


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
