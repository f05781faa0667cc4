"""Angles of a model's layers as reports and scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.angles import angle_statistics_of
from ortho_lightning.layers.filters import Layer, has_filters, layer_filters
from ortho_lightning.layers.parts import part_of
from ortho_lightning.layers.selection import Layers, select_parts

# The statistics logged during training of a wider layer are those of this many of its filters, evenly spaced: all
# pairs of 50,000 filters take half a minute on two cores, and 8 million pairs give the standard deviation to 0.05%.
WIDEST_LOGGED = 4096


def layer_angles(layers: Mapping[str, Layer], widest: int = WIDEST_LOGGED) -> dict[str, OF.AngleStatistics]:
    """Return the angle statistics of each layer that has weights yet, of at most ``widest`` of its filters a group."""
    kernels = {}
    for name, module in layers.items():
        kernel = current_filters(module)
        if kernel is not None:
            kernels[name] = kernel[:, :: math.ceil(kernel.shape[1] / widest)]
    return dict(zip(kernels, angle_statistics_of(list(kernels.values())), strict=True))


def angle_report(layers: Mapping[str, Layer], spectra: bool = False) -> list[dict[str, Any]]:
    """Return a dict a layer, with its spectrum if asked; see :meth:`~ortho_lightning.AngleMonitor.angle_report`."""
    found = {name: current_filters(module) for name, module in layers.items()}
    kernels = {name: kernel for name, kernel in found.items() if kernel is not None}
    measured = angle_statistics_of(list(kernels.values()))
    rows = {
        name: _filter_row(name, kernel, statistics, spectra)
        for (name, kernel), statistics in zip(kernels.items(), measured, strict=True)
    }
    rows |= {name: _output_row(name, spectra) for name, module in layers.items() if not has_filters(module)}
    return [rows[name] for name in layers if name in rows]  # a lazy layer that has no weights yet has no row


def _filter_row(name: str, kernel: Tensor, statistics: OF.AngleStatistics, spectra: bool) -> dict[str, Any]:
    groups, k, d = kernel.shape
    return {
        "name": name,
        "groups": groups,
        "k": k,
        "d": d,
        "mean": statistics.mean,
        "std": statistics.std,
        "min": statistics.min,
        "max": statistics.max,
        "rms_cos": statistics.rms_cos,
        "max_abs_cos": statistics.max_abs_cos,
        "null_std": OF.null_std(d),
        "spread_ratio": statistics.std / OF.null_std(d),
        "welch_floor": OF.welch_floor(k, d),
        **(asdict(OF.spectrum_statistics(kernel)) if spectra else {}),
    }


def _output_row(name: str, spectra: bool) -> dict[str, Any]:
    """Return the row of a layer that is a module's outputs: it has no filters, only response angles."""
    numbers = ("groups", "k", "d", "mean", "std", "min", "max", "rms_cos", "max_abs_cos", "null_std", "spread_ratio")
    of_spectrum = [field.name for field in fields(OF.SpectrumStatistics)] if spectra else []
    return {"name": name, **dict.fromkeys([*numbers, "welch_floor", *of_spectrum])}


def selected_report(
    layers: Mapping[str, Layer],
    module: nn.Module | None,
    selection: Layers,
    exclude: Layers,
    spectra: bool = False,
) -> list[dict[str, Any]]:
    """Return the report of the layers that a callback selects in ``module``, or of ``layers`` where that is None.

    Raises:
        ConfigurationError: if there is neither.
        LayerSelectionError: if the selection matches no layer of ``module``.
    """
    if module is not None:
        layers = select_parts(module, selection, exclude, outputs="allowed")
    if not layers:
        raise ConfigurationError("angle_report() before fit: give it the module, angle_report(module)")
    return angle_report(layers, spectra)


def angle_scalars(measured: Mapping[str, OF.AngleStatistics]) -> dict[str, float]:
    """Return scalars of each layer, ``<scalar>/<layer>``, and of the model.

    Those of the model are means over layers, with a band of the mean standard deviation, and the largest cosine.
    """
    per_layer: dict[str, dict[str, float]] = {}
    for name, statistics in measured.items():
        per_layer[name] = {
            "angle_mean": statistics.mean,
            "angle_std": statistics.std,
            "spread_ratio": statistics.std / OF.null_std(statistics.d),
            "max_abs_cos": statistics.max_abs_cos,
        }
    if not per_layer:
        return {}
    scalars = {f"{key}/{name}": value for name, values in per_layer.items() for key, value in values.items()}
    for key in ("angle_mean", "angle_std", "spread_ratio"):
        scalars[key] = sum(values[key] for values in per_layer.values()) / len(per_layer)
    scalars["angle_lower"] = scalars["angle_mean"] - scalars["angle_std"]
    scalars["angle_upper"] = scalars["angle_mean"] + scalars["angle_std"]
    scalars["max_abs_cos"] = max(values["max_abs_cos"] for values in per_layer.values())
    return scalars


def is_ready(layer: Layer) -> bool:
    """Return whether the layer has weights yet: a lazy one that has seen no data has none, nor have mere outputs."""
    if not has_filters(layer):
        return False
    module = part_of(layer).module
    return not (isinstance(module, LazyModuleMixin) and module.has_uninitialized_params())


@torch.no_grad()
def current_filters(layer: Layer) -> Tensor | None:
    """Return the layer's filters ``(groups, k, d)`` as they are now, or None if it has none yet."""
    return layer_filters(layer) if is_ready(layer) else None
