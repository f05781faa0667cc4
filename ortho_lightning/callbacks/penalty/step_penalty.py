"""From what the layers did in a step to the penalty of the step."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ortho_lightning.callbacks.penalty.recording import LayerRecorder
from ortho_lightning.callbacks.penalty.synchronize import joined_statistics, world_size
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import filter_counts
from ortho_lightning.regularizers import Regularizer


class StepPenalty:
    """The penalties of the selected layers for the runs that the recorder holds.

    Args:
        layers: the layers by name.
        regularizer: the penalty of one layer.
        sync: whose rows make a penalty on outputs under DDP: "local" or "global".
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        regularizer: Regularizer,
        sync: Literal["local", "global"],
    ) -> None:
        self.recorder = LayerRecorder(layers, regularizer)
        self.by_layer: dict[str, Tensor] = {}
        """The last penalty of each layer, without graph."""
        self.diagnostics: dict[str, float] = {}
        """Further scalars of the last step that asked for them; ``<scalar>/<layer>`` for those of one layer."""
        self._layers = layers
        self._regularizer = regularizer
        self._global = sync == "global" and regularizer.observes == "outputs"

    def total(self, loss: Tensor, whole_step: bool, diagnose: bool) -> Tensor | None:
        """The sum over layers of the mean over runs of the penalty, or None where no layer ran.

        Args:
            loss: what the penalty will be added to; the total lies on its device.
            whole_step: every run of the step counts; otherwise those in the loss's graph.
            diagnose: also find the diagnostics; these wait for the device.
        """
        runs = self.recorder.take(None if whole_step else loss)
        processes = world_size() if self._global else 1
        penalties = self._joined(runs, loss.device) if processes > 1 else self._own(runs)
        if not penalties:
            return None
        means = {name: torch.stack(values).mean() for name, values in penalties.items()}
        self.by_layer = {name: mean.detach() for name, mean in means.items()}
        if diagnose:
            self._diagnose(runs, processes)
        return torch.stack([mean.to(loss.device) for mean in means.values()]).sum()

    def _own(self, runs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        names = [name for name, own in runs.items() for _ in own]
        values = [run for own in runs.values() for run in own]
        penalties = self._regularizer.penalties(values, [self.recorder.layer_seed(name) for name in names])
        by_layer: dict[str, list[Tensor]] = {}
        for name, penalty in zip(names, penalties, strict=True):
            by_layer.setdefault(name, []).append(self._scalar(name, penalty))
        return by_layer

    def _scalar(self, name: str, penalty: Any) -> Tensor:
        if not isinstance(penalty, Tensor) or penalty.dim() != 0:
            found = f"a tensor of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else repr(penalty)
            kind = type(self._regularizer).__name__
            raise ConfigurationError(f"{kind}.penalty gave {found} for layer {name!r}: it must return a scalar tensor")
        return penalty

    def _joined(self, runs: dict[str, list[Tensor]], device: torch.device) -> dict[str, list[Tensor]]:
        statistics = {name: [self._regularizer.statistics(run) for run in own] for name, own in runs.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self._layers.items():
            groups, k = filter_counts(layer)
            shapes[name] = (groups, k, k)
        joined = joined_statistics(statistics, shapes, reference=torch.zeros((), device=device))
        return {name: [self._regularizer.penalty_from_statistics(run) for run in own] for name, own in joined.items()}

    @torch.no_grad()
    def _diagnose(self, runs: dict[str, list[Tensor]], processes: int) -> None:
        found: dict[str, list[float]] = {}
        floors = []
        for name, own in runs.items():
            if own[0].numel() == 0:
                continue  # a batch without rows tells nothing
            floors.append(self._regularizer.floor(own[0]))
            for key, value in self._regularizer.diagnostics(own[0]).items():
                found.setdefault(key, []).append(float(value))
                found[f"{key}/{name}"] = [float(value)]
        self.diagnostics = {key: sum(values) / len(values) for key, values in found.items()}
        known = [floor for floor in floors if floor is not None]
        if known and len(known) == len(floors):
            self.diagnostics["penalty_floor"] = sum(known) / processes  # rows of all processes lower the noise
