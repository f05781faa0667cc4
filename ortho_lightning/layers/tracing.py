"""Runs of layers inside of compiled code.

Compiled code repeats what its first call did, so a hook in it takes samples at positions that it reads from a tensor,
leaves them on an object of the layer, and does nothing else. The graph is not broken, and nothing is compiled anew from
step to step. The rest happens after the code has run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ortho_lightning.layers import sampling
from ortho_lightning.layers.parts import Part
from ortho_lightning.layers.sampling import Sampling, Taken


class Trace:
    """Trace that a layer leaves when it runs in compiled code: that it ran, and the samples of each run."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the runs."""
        self.ran = False
        self.single = False  # the output is one tensor, of which an element was asked for
        self.taken: tuple[Taken, ...] = ()


class CompiledRuns:
    """Traces of all layers, and what moves their samples.

    Args:
        layers: the layers by name.
        sampling: how outputs are sampled; None: that a layer ran is all that is kept.
        gradient: whether the samples keep their graph.
    """

    def __init__(self, layers: Mapping[str, Part], sampling: Sampling | None, gradient: bool = True) -> None:
        self.open = False
        """Whether runs are kept."""
        self._layers = layers
        self._sampling = sampling
        self._gradient = gradient
        self._traces = {name: Trace() for name in layers}
        self._draws = {name: torch.zeros(2, dtype=torch.int64) for name in layers}

    def begin(self, seeds: Mapping[str, int]) -> None:
        """Begin a step; the seeds decide at which positions each layer's outputs are sampled."""
        for name, part in self._layers.items():
            self._traces[name].clear()
            if self._sampling is not None:
                draws = torch.tensor(sampling.draws_of(seeds[name]))
                weight = next(iter(part.module.parameters()), None)
                if weight is not None and self._draws[name].device != weight.device:
                    self._draws[name] = self._draws[name].to(weight.device)
                self._draws[name].copy_(draws, non_blocking=True)  # in place: compiled code reads this tensor
        self.open = True

    def ran(self, name: str, part: Part, args: Any, kwargs: Any, output: Any) -> None:
        """Keep a run; called by the layer's hook, in compiled code."""
        if not self.open:
            return
        trace = self._traces[name]
        trace.ran = True
        if self._sampling is None or not torch.is_grad_enabled():
            return
        own = sampling.element_of(part, output)
        if not isinstance(own, Tensor) or not own.is_floating_point():
            trace.single = own is None and isinstance(output, Tensor)
            return
        own = own if self._gradient else own.detach()
        most, draws = self._sampling.max_samples, self._draws[name]
        if self._sampling.detach_inputs:
            x = args[0] if args else next(iter(kwargs.values()))
            trace.taken = (*trace.taken, sampling.sample_inputs(part, x, own, most, draws))
        else:
            trace.taken = (*trace.taken, sampling.sample_outputs(part, own, most, draws))

    def collect(self) -> Iterator[tuple[str, tuple[Taken | None, ...]]]:
        """Yield the layers that ran since the last call, with the samples of each run, and forget the runs.

        Raises:
            UnsupportedLayerError: for samples that are not of all the layer's filters; for an element of a single
                tensor, if the samples are for a penalty.
        """
        for name, trace in self._traces.items():
            if not trace.ran:
                continue
            taken, single = trace.taken, trace.single
            trace.clear()
            if single and self._gradient:
                raise sampling.single_tensor(name, self._layers[name])
            for outputs in taken:
                if isinstance(outputs, Tensor) and not sampling.covers_all_filters(
                    self._layers[name], outputs, axis=-1
                ):
                    raise sampling.only_a_part(name, outputs)
            yield name, (taken if self._sampling is not None else (None,))
