"""The bare limit of a penalty: the time of the matrix products that it cannot do without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import layer_filters
from ortho_lightning.layers.parts import Part
from ortho_lightning.regularizers import LSH, Gram, LayerView, PairwisePenalty, Regularizer

_REPEATS = 7


def bare_products(network: nn.Module, layers: Mapping[str, Part], x: Tensor, regularizer: Regularizer) -> float | None:
    """Return the seconds of two products for each layer: of the values with themselves, and of that with the values.

    The first compares the filters, the second is its gradient. The smaller of the two sides is taken where the penalty
    may do so. Median of several repeats on the device of the network.

    Args:
        network: whose forward takes ``x``.
        layers: penalized ones by name.
        x: input of a batch.
        regularizer: the penalty.

    Returns:
        None for penalties that are no comparison of pairs of filters.
    """
    if not _compares_pairs(regularizer):
        return None
    device = next(network.parameters()).device
    values = [torch.randn(shape, device=device) for shape in _shapes(network, layers, x.to(device), regularizer)]
    taken = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        began = time.perf_counter()
        for each in values:
            tall = each.shape[-2] >= each.shape[-1]
            products = each.mT @ each if tall else each @ each.mT
            _ = each @ products if tall else products @ each
        _wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _compares_pairs(regularizer: Regularizer) -> bool:
    if isinstance(regularizer, PairwisePenalty):
        return regularizer.compare.of_filters
    return isinstance(regularizer, LSH) or (isinstance(regularizer, Gram) and regularizer.norm == "fro")


@torch.no_grad()
def _shapes(
    network: nn.Module, layers: Mapping[str, Part], x: Tensor, regularizer: Regularizer
) -> list[tuple[int, ...]]:
    """The shapes ``(groups, n, k)`` of what is multiplied: sampled outputs, or filters with n their size."""
    options = regularizer.sampling
    if options is None:
        views = [LayerView(layer_filters(layer)).some(regularizer.max_filters).filters for layer in layers.values()]
        return [tuple(filters.mT.shape) for filters in views]
    found: list[tuple[int, ...]] = []

    def hook(part: Part) -> Any:
        def ran(module: nn.Module, args: Any, output: Any) -> None:
            own = sampling.element_of(part, output)
            assert isinstance(own, Tensor)
            samples = sampling.as_samples(part, sampling.sample_outputs(part, own, options.max_samples, 0))
            found.append(tuple(LayerView(outputs=samples).some(regularizer.max_filters).outputs.shape))

        return ran

    handles = [part.module.register_forward_hook(hook(part)) for part in layers.values()]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
