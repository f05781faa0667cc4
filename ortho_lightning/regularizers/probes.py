"""The probes of the LSH penalty: whose signs estimate the angles between a layer's filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.lsh import Reduction, over_groups
from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.view import LayerView

Normalize = Literal["rms"] | None

# Stacking holds a second copy of the outputs where memory is at its highest, and on two cores it pays for the smallest
# layers only: one product of 1024 samples and 64 filters took as long as its part of a batch.
_FEW_ON_CPU = 2**15
_FEW_ELSEWHERE = 2**20


@dataclass(frozen=True)
class PairPenalty:
    """How similarities become a penalty; see :func:`~ortho_lightning.functional.lsh_penalty`."""

    lambda1: float
    lambda2: float
    gamma: float
    reduction: Reduction


class Probe(ABC):
    """What the penalty of the LSH regularizer is computed from."""

    sampling: Sampling | None = None

    @abstractmethod
    def penalties(self, layers: Sequence[LayerView], pairs: PairPenalty) -> list[Tensor]:
        """Return the penalty of each layer."""

    @abstractmethod
    def floor(self, layer: LayerView, pairs: PairPenalty) -> float:
        """Return what the penalty reads for orthogonal filters."""


class ExactProbe(Probe):
    """The limit of infinitely many isotropic directions, (2 / pi) arcsin c: no samples at all."""

    def __init__(self, max_samples: int | None, normalize: Normalize, detach_inputs: bool) -> None:
        Sampling(max_samples)
        _reject_detached_inputs("exact", detach_inputs)

    def penalties(self, layers: Sequence[LayerView], pairs: PairPenalty) -> list[Tensor]:
        """Return the penalty of the closed-form similarity of each layer."""
        options = (pairs.lambda1, pairs.lambda2, pairs.reduction)
        return [OF.similarity_penalty(OF.lsh_similarity_exact(layer.filters), *options) for layer in layers]

    def floor(self, layer: LayerView, pairs: PairPenalty) -> float:
        """Return 0."""
        return 0.0


class SampledProbe(Probe):
    """Base of the probes that estimate the similarity from the signs of n outputs."""

    def __init__(self, normalize: Normalize) -> None:
        self.normalize = normalize

    @abstractmethod
    def outputs(self, layer: LayerView) -> Tensor:
        """Return the outputs ``(groups, n, k)`` whose signs are compared."""

    @abstractmethod
    def count(self, layer: LayerView) -> int:
        """Return n, without computing the outputs."""

    def normalized(self, layer: LayerView) -> Tensor:
        """Return the outputs, each filter's divided by their root mean square where that was chosen."""
        outputs = self.outputs(layer)
        return OF.rms_normalize(outputs) if self.normalize == "rms" else outputs

    def penalties(self, layers: Sequence[LayerView], pairs: PairPenalty) -> list[Tensor]:
        """Return the penalties; small layers of one shape share their products."""
        outputs = [self.normalized(layer) for layer in layers]
        found: dict[int, Tensor] = {}
        for alike in _alike(outputs):
            stacked = torch.stack([outputs[i] for i in alike]) if len(alike) > 1 else outputs[alike[0]].unsqueeze(0)
            of_groups = OF.lsh_penalties(stacked, pairs.lambda1, pairs.lambda2, pairs.gamma, pairs.reduction)
            found.update(zip(alike, over_groups(of_groups, pairs.reduction, dim=-1).unbind(), strict=True))
        return [found[i] for i in range(len(outputs))]

    def floor(self, layer: LayerView, pairs: PairPenalty) -> float:
        """Return what n independent signs read."""
        groups, k = (layer.outputs.shape[0], layer.outputs.shape[2]) if self.sampling else layer.filters.shape[:2]
        floor = OF.lsh_penalty_floor(self.count(layer), k, pairs.lambda1, pairs.lambda2, pairs.reduction)
        return floor * groups if pairs.reduction == "sum" else floor


class InputsProbe(SampledProbe):
    """The layer's own inputs in the batch, as in the paper."""

    def __init__(self, max_samples: int | None, normalize: Normalize, detach_inputs: bool) -> None:
        super().__init__(normalize)
        self.sampling = Sampling(max_samples, detach_inputs)

    def outputs(self, layer: LayerView) -> Tensor:
        """Return the sampled outputs of the layer."""
        return layer.outputs

    def count(self, layer: LayerView) -> int:
        """Return how many outputs were sampled."""
        return layer.outputs.shape[1]


class GaussianProbe(SampledProbe):
    """Isotropic random directions, drawn anew each step from the layer's seed."""

    def __init__(self, max_samples: int | None, normalize: Normalize, detach_inputs: bool) -> None:
        super().__init__(normalize)
        Sampling(max_samples)
        _reject_detached_inputs("gaussian", detach_inputs)
        self.directions = 512 if max_samples is None else max_samples

    def outputs(self, layer: LayerView) -> Tensor:
        """Return the products of the random directions with the filters."""
        filters = layer.filters
        generator = torch.Generator(filters.device).manual_seed(layer.seed)
        dtype = torch.promote_types(filters.dtype, torch.float32)
        shape = (self.directions, filters.shape[-1])
        directions = torch.randn(shape, generator=generator, device=filters.device, dtype=dtype)
        with torch.autocast(filters.device.type, enabled=False):
            return directions @ filters.to(dtype).mT

    def count(self, layer: LayerView) -> int:
        """Return the number of directions."""
        return self.directions


PROBES: dict[str, Callable[[int | None, Normalize, bool], Probe]] = {
    "inputs": InputsProbe,
    "gaussian": GaussianProbe,
    "exact": ExactProbe,
}


def make_probe(probe: str, max_samples: int | None, normalize: Normalize, detach_inputs: bool) -> Probe:
    """Return the probe of that name.

    Raises:
        ConfigurationError: for an unknown name or an option that the probe cannot use.
    """
    if probe not in PROBES:
        raise ConfigurationError(f"probe={probe!r}: must be one of {', '.join(map(repr, PROBES))}")
    if normalize not in (None, "rms"):
        raise ConfigurationError(f"normalize={normalize!r}: must be None or 'rms'")
    return PROBES[probe](max_samples, normalize, detach_inputs)


def _reject_detached_inputs(probe: str, detach_inputs: bool) -> None:
    if detach_inputs:
        raise ConfigurationError(f"detach_inputs=True: probe={probe!r} never reaches the inputs; leave it False")


def _alike(outputs: Sequence[Tensor]) -> Iterable[list[int]]:
    """Return the places of outputs that are worth one batched product: equal shape, dtype and device, few numbers.

    Stacking copies them, which pays while starting an operation costs more than the operation.
    """
    places: dict[Any, list[int]] = {}
    for i, each in enumerate(outputs):
        few = each.numel() <= (_FEW_ON_CPU if each.device.type == "cpu" else _FEW_ELSEWHERE)
        places.setdefault((each.shape, each.dtype, each.device) if few else i, []).append(i)
    return places.values()
