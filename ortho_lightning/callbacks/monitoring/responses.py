"""Response angles during training: samples of the layers' outputs in the steps in which they are due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring.angles import WIDEST_LOGGED
from ortho_lightning.functional.responses import response_statistics_of
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import Layer
from ortho_lightning.layers.hooks import ForwardHook, LayerHooks, in_backward, in_transform
from ortho_lightning.layers.parts import Part, part_of
from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.layers.tracing import CompiledRuns
from ortho_lightning.random import mix, number


class ResponseMonitor:
    """Takes samples of the layers' outputs and measures the response angles between their filters.

    The samples are the penalty's own where the owner of the monitor hands them over (:meth:`take`); otherwise hooks
    take them, from the first run of each layer in the batch, and copies of them only, so that training does not change.
    The hooks come and go, except in a compiled model, whose code would be compiled anew each time.
    Under DDP each process measures its own samples.

    Args:
        layers: the layers by name.
        max_samples: samples of a layer's outputs.
    """

    def __init__(self, layers: Mapping[str, Layer], max_samples: int) -> None:
        self.measured: dict[str, OF.ResponseStatistics] = {}
        """What was measured last, by layer."""
        self.before: dict[str, OF.ResponseStatistics] = {}
        """What was measured first in this fit, by layer."""
        self._layers = layers
        self._max_samples = max_samples
        self._seed = 0
        self._outputs: dict[str, Tensor] = {}
        self._observed = {name: part_of(layer) for name, layer in layers.items() if part_of(layer).outputs is not None}
        self._hooks = LayerHooks(self._observed, self._hook)
        self._compiled = CompiledRuns(self._observed, Sampling(max_samples), gradient=False)
        self._due = False

    def persist(self) -> None:
        """Keep the hooks in place from now on, as a compiled model needs them."""
        self._hooks.persist()

    def begin_batch(self, step: int, rank: int) -> None:
        """Sample the outputs of this batch by hooks."""
        self._seed = mix(step, rank)
        self._due = True
        if self._hooks.persistent:
            self._compiled.begin({name: self._seed_of(name) for name in self._observed})
        self._hooks.install()

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """Take sampled outputs ``(groups, n, k)`` by layer; of several runs in a batch the first counts."""
        for name, samples in outputs.items():
            self._outputs.setdefault(name, samples.detach())

    @torch.no_grad()
    def take_compiled(self) -> None:
        """Take what compiled code has sampled, while the layers' biases are those of its outputs."""
        for name, taken in self._compiled.collect() if self._hooks.persistent else ():
            if taken:
                assert isinstance(taken[0], Tensor)
                self.take({name: sampling.as_samples(self._observed[name], taken[0])})

    def end_batch(self) -> None:
        """Measure the samples of the batch, if any were taken."""
        self.take_compiled()
        self._rest()
        outputs, self._outputs = self._outputs, {}
        some = [samples[..., :: math.ceil(samples.shape[-1] / WIDEST_LOGGED)] for samples in outputs.values()]
        for name, statistics in zip(outputs, response_statistics_of(some), strict=True):
            if statistics.n > 0 and statistics.pairs > 0:
                self.measured[name] = statistics
                self.before.setdefault(name, statistics)

    def close(self) -> None:
        """Remove the hooks and forget the samples; safe to call twice."""
        self._hooks.close()
        self._rest()
        self._outputs = {}

    def _hook(self, name: str, part: Part) -> ForwardHook:
        def ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if torch.compiler.is_compiling():
                self._compiled.ran(name, part, args, kwargs, output)
                return
            if not self._due or name in self._outputs or in_backward() or in_transform():
                return
            own = sampling.element_of(part, output)
            if sampling.covers_all_filters(part, own):
                with torch.no_grad():
                    samples = sampling.sample_outputs(part, own, self._max_samples, self._seed_of(name))
                    self.take({name: sampling.as_samples(part, samples)})

        return ForwardHook(ran)

    def _seed_of(self, name: str) -> int:
        return mix(self._seed, number(name))

    def _rest(self) -> None:
        """Let the hooks rest until the next batch that is due."""
        self._due = self._compiled.open = False
        self._hooks.remove()


def response_scalars(measured: Mapping[str, OF.ResponseStatistics]) -> dict[str, float]:
    """Return scalars of each layer, ``<scalar>/<layer>``, and their means over layers, with a band of the mean std."""
    if not measured:
        return {}
    scalars: dict[str, float] = {}
    for key, of_layer in (("response_angle_mean", "mean"), ("response_angle_std", "std")):
        values = {name: getattr(statistics, of_layer) for name, statistics in measured.items()}
        scalars |= {f"{key}/{name}": value for name, value in values.items()}
        scalars[key] = sum(values.values()) / len(values)
    scalars["response_angle_lower"] = scalars["response_angle_mean"] - scalars["response_angle_std"]
    scalars["response_angle_upper"] = scalars["response_angle_mean"] + scalars["response_angle_std"]
    return scalars


def response_row(
    statistics: OF.ResponseStatistics | None, before: OF.ResponseStatistics | None
) -> dict[str, float | None]:
    """Return the response angles of a layer as part of its row in ``angle_report``."""
    return {
        "response_mean": None if statistics is None else statistics.mean,
        "response_std": None if statistics is None else statistics.std,
        "response_min": None if statistics is None else statistics.min,
        "response_max": None if statistics is None else statistics.max,
        "response_rms_similarity": None if statistics is None else statistics.rms_similarity,
        "response_max_abs_similarity": None if statistics is None else statistics.max_abs_similarity,
        "response_samples": None if statistics is None else statistics.n,
        "response_sampling_error": None if statistics is None else statistics.sampling_error,
        "response_std_before": None if before is None else before.std,
    }
