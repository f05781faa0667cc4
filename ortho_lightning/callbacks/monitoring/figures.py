"""Figures of a training: when they are due, and drawing them beside it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring import angles, loggers
from ortho_lightning.callbacks.monitoring.adapters import Adapter
from ortho_lightning.callbacks.monitoring.arguments import Kind
from ortho_lightning.errors import LayerSelectionError
from ortho_lightning.layers.filters import Layer, effective_weight
from ortho_lightning.layers.selection import select_parts

if TYPE_CHECKING:
    import numpy as np

    from ortho_lightning import plots

SelectedLayers: TypeAlias = Mapping[str, Layer]
Responses: TypeAlias = Mapping[str, OF.ResponseStatistics]

NOT_MEASURED = OF.response_statistics(torch.empty(0, 2))


class Figures:
    """Figures of each layer before training, evenly between and after it, drawn by one thread while training goes on.

    Nothing random is used, and what is drawn was copied when it was due, so the training neither waits nor changes.

    Args:
        name: prefix of the figures' names.
        times: how often, the first and the last included; None: never. 1 is the end only.
        kinds: of angles that are drawn. Response angles are those that were measured last.
    """

    def __init__(self, name: str, times: int | None, kinds: Sequence[Kind]) -> None:
        self.name = name
        self.times = times
        self.kinds = kinds
        self._progress = 0.0
        self._drawn_at = -1
        self._pool: ThreadPoolExecutor | None = None
        self._drawings: list[Future[None]] = []

    def start(self, trainer: Any, module: nn.Module, layers: SelectedLayers, responses: Responses) -> None:
        """Draw the figures before training."""
        self._progress = _progress(trainer)
        self._drawn_at = -1
        if self.times != 1:
            self._draw(trainer, module, layers, responses, f"before epoch {trainer.current_epoch + 1}")

    def epoch_end(self, trainer: Any, module: nn.Module, layers: SelectedLayers, responses: Responses) -> None:
        """Draw figures, if they are due after this epoch."""
        if self.times is None:
            return
        before, self._progress = self._progress, _progress(trainer, ended=1)
        # those of the end wait for on_train_end, which comes too when training stops early
        between = self.times - 1
        if math.floor(before * between) < math.floor(self._progress * between) < between:
            self._draw(trainer, module, layers, responses, f"after epoch {trainer.current_epoch + 1}")

    def finish(self, trainer: Any, module: nn.Module, layers: SelectedLayers, responses: Responses) -> None:
        """Draw the last figures and wait for all that is still being drawn."""
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, module, layers, responses, f"after epoch {trainer.current_epoch}")
        for drawing in self._drawings:
            error = drawing.exception()
            if error is not None:
                what = str(error) if isinstance(error, _PictureError) else f"a figure could not be drawn: {error!r}"
                rank_zero_warn(f"AngleMonitor({self.name!r}): {what}")
                break
        self.close()

    def close(self) -> None:
        """Drop what has not been begun, and wait for the thread to end."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._drawings = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_drawings": []}  # a copy draws its own

    def _draw(self, trainer: Any, module: nn.Module, layers: SelectedLayers, responses: Responses, when: str) -> None:
        if self.times is None or not trainer.loggers:
            return
        from ortho_lightning import plots  # matplotlib is loaded where something is drawn

        self._drawn_at = trainer.global_step
        # read on every process, for a sharded weight is gathered by all
        first, weight, of = _first_filters(module, layers)
        filters = self._filter_angles(layers)
        takers = [adapter for adapter in loggers.adapters(trainer) if adapter.takes_pictures]
        if not takers:
            return
        drawings: dict[str, Callable[[], np.ndarray]] = {}
        if weight is not None:
            drawings[f"filters/{first}"] = partial(plots.filter_picture, weight, f"{first}, {when}", of)
        for name in filters if "filter" in self.kinds else responses:
            measured = responses.get(name, NOT_MEASURED) if "response" in self.kinds else None
            drawings[f"pairs/{name}"] = partial(plots.layer_picture, filters.get(name), f"{name}, {when}", measured)
        self._submit(takers, drawings, loggers.log_step(trainer))

    def _filter_angles(self, layers: SelectedLayers) -> dict[str, plots.LayerAngles]:
        """Return what is drawn of filter angles, by layer; nothing where only response angles are."""
        from ortho_lightning import plots

        found = {}
        for name, statistics in angles.layer_angles(layers).items() if "filter" in self.kinds else ():
            kernel = angles.current_filters(layers[name])
            if kernel is not None and statistics.pairs > 0:
                found[name] = plots.LayerAngles.of(kernel, statistics)
        return found

    def _submit(self, takers: list[Adapter], drawings: Mapping[str, Callable[[], np.ndarray]], step: int) -> None:
        def draw(tag: str, drawing: Callable[[], np.ndarray]) -> None:
            pixels = drawing()
            for adapter in takers:
                try:
                    adapter.picture(f"{self.name}/{tag}", pixels, step)
                except Exception as error:
                    raise _PictureError(adapter, error) from error

        if self._pool is not None:
            self._pool.shutdown(wait=True)  # one thread at a time: matplotlib promises nothing to several
        self._pool = ThreadPoolExecutor(1, "ortho-figures")
        self._drawings += [self._pool.submit(draw, tag, drawing) for tag, drawing in drawings.items()]
        self._pool.shutdown(wait=False)  # it ends by itself when all is drawn, whether or not somebody calls close()


class _PictureError(Exception):
    """An adapter failed with a figure that was drawn."""

    def __init__(self, adapter: Adapter, error: Exception) -> None:
        super().__init__(f"{type(adapter).__name__}.picture raised {error!r}")


def _progress(trainer: Any, ended: int = 0) -> float:
    """Return how far the training is, in [0, 1], by its epochs or its steps; 0 where neither has an end."""
    parts = [0.0]
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        parts.append((trainer.current_epoch + ended) / trainer.max_epochs)
    if trainer.max_steps > 0:
        parts.append(trainer.global_step / trainer.max_steps)
    return min(max(parts), 1.0)


def _first_filters(module: nn.Module, layers: SelectedLayers) -> tuple[str, Tensor | None, int]:
    """Return the first layer's name, chosen or not, at most 256 of its filters on the CPU, and how many it has."""
    from ortho_lightning import plots

    with contextlib.suppress(LayerSelectionError):  # none of the usual kinds: the first of the chosen
        layers = select_parts(module)
    for name, layer in layers.items():
        if angles.is_ready(layer):
            with torch.no_grad():
                weight = effective_weight(layer)
                return name, weight[plots.evenly_spaced(len(weight), plots.MOST_FILTERS)].float().cpu(), len(weight)
    return "", None, 0
