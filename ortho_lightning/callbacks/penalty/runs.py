"""Runs of layers that count: what a hook keeps of one, and what a regularizer sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import RunWeights, layer_filters
from ortho_lightning.layers.hooks import in_transform
from ortho_lightning.layers.parts import Part
from ortho_lightning.layers.sampling import SampledInputs, Sampling, Taken
from ortho_lightning.regularizers import LayerView


@dataclass(frozen=True)
class Run:
    """One run of a layer that counts, as its hook kept it."""

    name: str
    part: Part
    nodes: tuple[Any, ...]
    """Nodes of the run, of which one is in the graph of every loss that depends on its output; empty if not known."""
    weight: RunWeights | None
    """The weights of this run, where a later run would replace one."""
    outputs: Taken | None
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


def sample(
    name: str, part: Part, args: Any, kwargs: Any, output: Any, options: Sampling, seed: int
) -> tuple[Any, Taken]:
    """Return the output to hand on, and the sampled outputs of a run.

    Raises:
        UnsupportedLayerError: for outputs that are not those of all the layer's filters.
    """
    own = _own_output(name, part, output)
    if options.detach_inputs:
        if not sampling.can_compute_again(part):
            raise UnsupportedLayerError(
                name,
                f"detach_inputs=True computes outputs again from the layer's inputs, which is not possible for "
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
    if own is None and isinstance(output, Tensor):
        raise sampling.single_tensor(name, part)
    if not isinstance(own, Tensor):
        how = "OutputsOf(pattern, element=...)" if part.kernel is None else "Outputs(element=...) of its kernel"
        raise UnsupportedLayerError(
            name,
            f"its outputs are {_described(output)}{_asked(part)}, not a tensor of floating-point numbers; say which of "
            f"them is meant with {how}",
        )
    if not own.is_floating_point():
        raise UnsupportedLayerError(name, f"its outputs are {own.dtype}, not floating-point numbers")
    if not sampling.covers_all_filters(part, own):
        raise sampling.only_a_part(name, own)
    return own


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(map(repr, output))}"
    return f"{kind} of {len(output)}" if isinstance(output, list | tuple) else kind


def _asked(part: Part) -> str:
    element = None if part.outputs is None else part.outputs.element
    return "" if element is None else f", of which element={element!r} is asked for"


def nodes_of(output: Any) -> tuple[Any, ...]:
    """Return the nodes of the graph that made an output, or the tensors in it."""
    if in_transform():  # its nodes are those of the transform's own graph
        return ()
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return tuple(node for each in output for node in nodes_of(each))
    if not isinstance(output, Tensor):
        return ()
    node = output.grad_fn
    if output._base is not None and output._base.grad_fn is not None:
        node = output._base.grad_fn  # a change in place gives a view another node, and keeps that of its base
    return () if node is None else (node,)


_TAKING = ("Index", "Clone", "View", "UnsafeView", "ReshapeAlias", "Permute", "Unsqueeze")


def sampled_node(node: Any) -> Any:
    """Return the node of the output that samples were taken from: compilers without a backward of their own keep it."""
    while node.name().partition("Backward")[0] in _TAKING and node.next_functions and node.next_functions[0][0]:
        node = node.next_functions[0][0]
    return node


def graph_of(loss: Tensor) -> set[Any]:
    """Return all nodes of the loss's graph."""
    waiting: list[Any] = [loss.grad_fn]
    nodes: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return nodes
