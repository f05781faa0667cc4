"""The penalty of a step as a function of the recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ortho_lightning.callbacks.penalty.runs import Run
from ortho_lightning.callbacks.penalty.synchronize import joined_statistics
from ortho_lightning.distributed import world_size
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.host import on_host
from ortho_lightning.layers.filters import Layer, filter_counts, has_filters
from ortho_lightning.regularizers import LayerView, Regularizer


@dataclass(frozen=True)
class Penalties:
    """The penalty of a step."""

    total: Tensor
    """The sum over layers, with its graph."""
    by_layer: dict[str, Tensor]
    """The mean over runs of each layer, without graph."""


class StepPenalty:
    """The sum over layers of the mean over runs of a regularizer's penalty.

    Args:
        layers: the layers by name.
        regularizer: the penalty of one layer.
        sync: whose outputs make a penalty on outputs under DDP: "local" or "global".
    """

    def __init__(self, layers: Mapping[str, Layer], regularizer: Regularizer, sync: Literal["local", "global"]) -> None:
        self._layers = layers
        self._regularizer = regularizer
        self._joins_processes = sync == "global" and regularizer.sampling is not None
        if self._joins_processes and regularizer.max_filters is not None:
            raise ConfigurationError(
                f"sync='global' with max_filters={regularizer.max_filters}: processes join the statistics of the same "
                "filters, all of them; use sync='local' or max_filters=None"
            )
        without = [name for name, layer in layers.items() if not has_filters(layer)]
        if self._joins_processes and without:
            raise ConfigurationError(
                f"sync='global': the outputs of {', '.join(map(repr, without))} have a width that is not known before "
                "they run, so processes cannot join them; use sync='local'"
            )

    def views(self, runs: Sequence[Run]) -> dict[str, list[LayerView]]:
        """Return, by layer, what the regularizer sees: every run, or one of those that share their filters."""
        by_layer: dict[str, list[LayerView]] = {}
        for run in runs:
            own = by_layer.setdefault(run.name, [])
            if not own or self._regularizer.sampling is not None or run.weight is not None:
                own.append(run.view())
        return by_layer

    def total(self, views: Mapping[str, Sequence[LayerView]], device: torch.device) -> Penalties | None:
        """Return the penalties, the total on ``device``; None where no layer ran."""
        several = self._joins_processes and world_size() > 1
        penalties = self._of_all_processes(views, device) if several else self._of_this_process(views)
        if not penalties:
            return None
        means = {name: torch.stack(own).mean() for name, own in penalties.items()}
        total = torch.stack([mean.to(device) for mean in means.values()]).sum()
        return Penalties(total, {name: mean.detach() for name, mean in means.items()})

    @torch.no_grad()
    def diagnostics(self, views: Mapping[str, Sequence[LayerView]]) -> dict[str, float]:
        """Return the regularizer's further scalars: their means, and ``<scalar>/<layer>``; waits for the device."""
        told = [
            (key, name, value)
            for name, (first, *_) in self._with_values(views).items()
            for key, value in self._regularizer.diagnostics(first).items()
        ]
        found: dict[str, list[float]] = {}
        for (key, name, _), value in zip(told, on_host([value for *_, value in told]), strict=True):
            found.setdefault(key, []).append(value.item())
            found[f"{key}/{name}"] = [value.item()]
        means = {key: sum(values) / len(values) for key, values in found.items()}
        floor = self.floor(views)
        return means if floor is None else means | {"penalty_floor": floor}

    @torch.no_grad()
    def floor(self, views: Mapping[str, Sequence[LayerView]]) -> float | None:
        """Return what the penalty reads on average for orthogonal filters; None where that is not known."""
        floors = [self._regularizer.floor(first) for first, *_ in self._with_values(views).values()]
        known = [floor for floor in floors if floor is not None]
        if not known or len(known) < len(floors):
            return None
        return sum(known) / (world_size() if self._joins_processes else 1)  # samples of all processes lower the noise

    def _with_values(self, views: Mapping[str, Sequence[LayerView]]) -> dict[str, list[LayerView]]:
        """Return the layers whose runs had any values, as they are penalized: a batch without samples tells nothing."""
        on_outputs = self._regularizer.sampling is not None
        found = {name: self._penalized(own) for name, own in views.items()}
        return {
            name: own for name, own in found.items() if (own[0].outputs if on_outputs else own[0].filters).numel() > 0
        }

    def _penalized(self, views: Sequence[LayerView]) -> list[LayerView]:
        """Return the views of the filters that the penalty sees in this step."""
        return [view.some(self._regularizer.max_filters) for view in views]

    def _of_this_process(self, views: Mapping[str, Sequence[LayerView]]) -> dict[str, list[Tensor]]:
        flat = [view for own in views.values() for view in self._penalized(own)]
        by_layer: dict[str, list[Tensor]] = {}
        for view, penalty in zip(flat, self._regularizer.penalties(flat), strict=True):
            by_layer.setdefault(view.name, []).append(self._scalar(view.name, penalty))
        return by_layer

    def _scalar(self, name: str, penalty: Any) -> Tensor:
        if not isinstance(penalty, Tensor) or penalty.dim() != 0:
            found = f"a tensor of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else repr(penalty)
            kind = type(self._regularizer).__name__
            raise ConfigurationError(f"{kind}.penalty gave {found} for layer {name!r}: it must return a scalar tensor")
        return penalty

    def _of_all_processes(
        self, views: Mapping[str, Sequence[LayerView]], device: torch.device
    ) -> dict[str, list[Tensor]]:
        statistics = {name: [self._regularizer.statistics(view) for view in own] for name, own in views.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self._layers.items():
            groups, k = filter_counts(layer)
            shapes[name] = (groups, k, k)
        joined = joined_statistics(statistics, shapes, reference=torch.zeros((), device=device))
        return {name: [self._regularizer.penalty_from_statistics(run) for run in own] for name, own in joined.items()}
